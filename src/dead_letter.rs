//! `splashdam dead-letter`: shows the documents that an output refused, and sends them again.
//!
//! Owns which pipelines' files are meant and what is printed. Both commands may run beside an
//! agent on the same state directory. Guarantees that nothing from a document reaches a terminal
//! as a control character, and that one damaged line or unusable file doesn't hide the others.
//! Reading is in `ship/dead_letter/`, sending in `ship/replay.rs`.

use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::fmt::Display;
use std::hash::BuildHasher;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::Instant;

use crate::config::pipeline::Target;
use crate::config::{Loaded, Pipeline};
use crate::ship::dead_letter::files::{Files, directory, lock_replay};
use crate::ship::dead_letter::read::{Line, Lines, Written};
use crate::ship::replay::{Orders, Tally, replay};
use crate::telemetry::terminal::{escape, escape_json};

/// Which letters are meant, and where complaints go.
pub(crate) struct Request<'a> {
    pub(crate) loaded: &'a Loaded,
    /// One pipeline only, configured or not.
    pub(crate) pipeline: Option<&'a str>,
    /// Takes a line without its end, fit for a terminal.
    pub(crate) complain: &'a mut dyn FnMut(&str),
}

impl Request<'_> {
    fn state_dir(&self) -> &Path {
        &self.loaded.agent.state.dir
    }

    /// The files of every pipeline that is meant and has some.
    fn files(&self) -> anyhow::Result<Vec<Files>> {
        let mut all = Files::all(self.state_dir())
            .with_context(|| directory(self.state_dir()).display().to_string())?;
        if let Some(name) = self.pipeline {
            let wanted = Files::of(self.state_dir(), name);
            all.retain(|files| *files == wanted);
        }
        Ok(all)
    }

    /// Whether the pipeline that was asked for is configured, or has letters at least.
    ///
    /// # Errors
    /// The directory can't be read.
    pub(crate) fn is_known(&self) -> anyhow::Result<bool> {
        let Some(name) = self.pipeline else {
            return Ok(true);
        };
        let configured = self.loaded.pipelines.iter().any(|pipeline| pipeline.name == name);
        Ok(configured || !self.files()?.is_empty())
    }

    fn complain(&mut self, what: impl Display) {
        (self.complain)(&escape(&what.to_string()));
    }
}

/// Prints the letters, as a table or as they are; `false` if something could not be read.
///
/// # Errors
/// The directory can't be read, or `out` can't be written.
pub(crate) fn list(request: Request<'_>, json: bool, out: &mut impl Write) -> anyhow::Result<bool> {
    let files = request.files()?;
    let mut widths = Widths::default();
    if !json {
        // Read twice: what is written in between may be wider, and nothing is kept.
        each_line(&files, |_, line| {
            if let Ok(Line { content: Ok(written), .. }) = line {
                widths.widen(&written);
            }
            Ok(())
        })?;
    }
    let mut listing = Listing { request, json, widths, sum: Sum::default(), is_whole: true };
    each_line(&files, |path, line| listing.take(path, line, out))?;
    if json {
        listing.request.complain(listing.sum);
    } else {
        writeln!(out, "{}", listing.sum)?;
    }
    Ok(listing.is_whole)
}

/// What `list` prints, as it goes.
struct Listing<'a> {
    request: Request<'a>,
    json: bool,
    widths: Widths,
    sum: Sum,
    is_whole: bool,
}

impl Listing<'_> {
    fn take(
        &mut self,
        path: &Path,
        line: io::Result<Line>,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        match line {
            Ok(Line { content: Ok(written), raw, .. }) => {
                if self.json {
                    let line = String::from_utf8_lossy(&raw);
                    writeln!(out, "{}", escape_json(line.trim_end()))?;
                } else {
                    if self.sum.letters == 0 {
                        self.widths.write_head(out)?;
                    }
                    self.widths.write(out, &written)?;
                }
                self.sum.count(written);
            }
            Ok(Line { content: Err(damage), number, .. }) => {
                self.is_whole = false;
                self.sum.damaged += 1;
                self.request.complain(format_args!("{}:{number}: {damage}", path.display()));
            }
            Err(error) => {
                self.is_whole = false;
                self.request.complain(format_args!("{}: {error}", path.display()));
            }
        }
        Ok(())
    }
}

/// Hands every line of `all` to `take`; a file that can't be read gives one error.
fn each_line(
    all: &[Files],
    mut take: impl FnMut(&Path, io::Result<Line>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for files in all {
        let path = files.live();
        // Open before the older ones are looked up: it may become one of them in between.
        let live = Lines::open(&path, true).transpose();
        let live_inode = match &live {
            Some(Ok(lines)) => lines.file().metadata().ok().map(|found| found.ino()),
            _ => None,
        };
        for path in files.older().with_context(|| path.display().to_string())? {
            let lines = Lines::open(&path, false).transpose();
            if let Some(Ok(lines)) = &lines
                && lines.file().metadata().is_ok_and(|found| Some(found.ino()) == live_inode)
            {
                continue;
            }
            each_line_of(&path, lines, &mut take)?;
        }
        each_line_of(&path, live, &mut take)?;
    }
    Ok(())
}

fn each_line_of(
    path: &Path,
    lines: Option<io::Result<Lines>>,
    take: &mut impl FnMut(&Path, io::Result<Line>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut lines = match lines {
        None => return Ok(()),
        Some(Err(error)) => return take(path, Err(error)),
        Some(Ok(lines)) => lines,
    };
    loop {
        match lines.next() {
            Ok(None) => return Ok(()),
            Ok(Some(line)) => take(path, Ok(line))?,
            Err(error) => return take(path, Err(error)),
        }
    }
}

/// The columns of the table, each as wide as its widest text.
#[derive(Debug, Default)]
struct Widths([usize; 5]);

impl Widths {
    const HEAD: [&str; 5] = ["time", "pipeline", "index", "id", "reason"];

    fn texts(written: &Written) -> [String; 5] {
        let Written { time, pipeline, letter } = written;
        [time, pipeline, &letter.index, &letter.id, &letter.reason].map(|text| escape(text))
    }

    fn widen(&mut self, written: &Written) {
        let texts = Self::texts(written);
        for ((width, head), text) in self.0.iter_mut().zip(Self::HEAD).zip(texts) {
            *width = (*width).max(head.len()).max(text.chars().count());
        }
    }

    fn write_head(&self, out: &mut impl Write) -> io::Result<()> {
        self.write_row(out, &Self::HEAD.map(str::to_owned), "bytes")
    }

    fn write(&self, out: &mut impl Write, written: &Written) -> io::Result<()> {
        let bytes = written.letter.document.len().to_string();
        self.write_row(out, &Self::texts(written), &bytes)
    }

    fn write_row(&self, out: &mut impl Write, texts: &[String; 5], bytes: &str) -> io::Result<()> {
        for (text, width) in texts.iter().zip(self.0) {
            write!(out, "{text:<width$}  ")?;
        }
        writeln!(out, "{bytes:>7}")
    }
}

/// What a list comes to.
#[derive(Debug, Default)]
struct Sum {
    letters: u64,
    bytes: u64,
    pipelines: BTreeSet<String>,
    damaged: u64,
}

impl Sum {
    fn count(&mut self, written: Written) {
        self.letters += 1;
        self.bytes += written.letter.document.len() as u64;
        self.pipelines.insert(written.pipeline);
    }
}

impl Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { letters, bytes, pipelines, damaged } = self;
        let pipelines = pipelines.len();
        write!(f, "dead letters: {letters}, bytes: {bytes}, pipelines: {pipelines}")?;
        if *damaged == 0 { Ok(()) } else { write!(f, ", damaged lines: {damaged}") }
    }
}

/// Sends the letters again and prints a line for each pipeline; `true` if none is left.
///
/// # Errors
/// Another replay is running, the directory can't be used, or `out` can't be written.
pub(crate) fn resend(
    mut request: Request<'_>,
    deadline: Duration,
    out: &mut impl Write,
) -> anyhow::Result<bool> {
    let deadline = Instant::now() + deadline;
    let files = request.files()?;
    let loaded = request.loaded;
    let _lock = match files.is_empty() {
        true => None,
        false => Some(lock(request.state_dir())?),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut is_done = true;
    for pipeline in &loaded.pipelines {
        let mine = Files::of(request.state_dir(), &pipeline.name);
        if request.pipeline.is_some_and(|name| name != pipeline.name) {
            continue;
        }
        let verdict = if files.contains(&mine) {
            runtime.block_on(resend_one(pipeline, &mine, deadline, &mut request))
        } else {
            Ok(Tally::default())
        };
        is_done &= verdict.as_ref().is_ok_and(|tally| tally.remaining() == 0);
        match verdict {
            Ok(tally) => writeln!(out, "{}: {tally}", escape(&pipeline.name))?,
            Err(why) => writeln!(out, "{}: left alone: {}", escape(&pipeline.name), escape(&why))?,
        }
    }
    for files in files {
        let is_of = |pipeline: &Pipeline| files == Files::of(request.state_dir(), &pipeline.name);
        if !loaded.pipelines.iter().any(is_of) && has_lines(&files)? {
            is_done = false;
            let path = files.live().display().to_string();
            writeln!(out, "{}: left alone: its pipeline is not configured", escape(&path))?;
        }
    }
    Ok(is_done)
}

fn lock(state_dir: &Path) -> anyhow::Result<std::fs::File> {
    let path = || directory(state_dir).display().to_string();
    match lock_replay(state_dir).with_context(path)? {
        Some(lock) => Ok(lock),
        None => bail!("another replay is at work in {}", path()),
    }
}

/// What became of the letters of one pipeline, or why they were left alone.
async fn resend_one(
    pipeline: &Pipeline,
    files: &Files,
    deadline: Instant,
    request: &mut Request<'_>,
) -> Result<Tally, String> {
    let Target::Elasticsearch(output) = &pipeline.output.target else {
        return match has_lines(files) {
            Ok(false) => Ok(Tally::default()),
            Ok(true) => Err("its output is not Elasticsearch".to_owned()),
            Err(error) => Err(format!("{error:#}")),
        };
    };
    let orders = Orders { output, batch_bytes: pipeline.output.batch.size_bytes, deadline };
    let seed = RandomState::new().hash_one(&pipeline.name);
    let name = &pipeline.name;
    let mut tell = |text: &str| request.complain(format_args!("{name}: {text}"));
    (replay(orders, files, seed, &mut tell).await)
        .map_err(|error| format!("{:#}", anyhow::Error::from(error)))
}

/// Whether there is anything in the files, damaged or not.
fn has_lines(files: &Files) -> anyhow::Result<bool> {
    let mut any = false;
    each_line(std::slice::from_ref(files), |_, _| {
        any = true;
        Ok(())
    })?;
    Ok(any)
}

#[cfg(test)]
mod tests;
