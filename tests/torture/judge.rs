//! Compares what was written with what is in the index, line by line.
//!
//! Every written line has to be in exactly one document, no document may have another line, and
//! the documents of a lane have to be in its order.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use memchr::memmem;

use crate::container::Done;
use crate::ground::Ground;
use crate::peer::index::Index;

/// Offenders that are named.
const NAMED: usize = 12;

#[derive(Debug, Default)]
pub(crate) struct Judgement {
    pub(crate) written: u64,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    /// Lines that nobody wrote.
    pub(crate) foreign: u64,
    /// Documents before which a later one of the same lane stands.
    pub(crate) disordered: u64,
    /// Documents that are not made of whole lines, or came with other lines under the same id.
    pub(crate) wrong: u64,
    /// The first few of each kind, for people.
    pub(crate) offenders: Vec<String>,
}

impl Judgement {
    pub(crate) fn is_good(&self) -> bool {
        self.lost + self.doubled + self.foreign + self.disordered + self.wrong == 0
    }

    /// Judges the lines of `done`, by container.
    pub(crate) fn of(index: &Index, done: &[Done], ground: &Ground) -> Self {
        let mut judgement = Self { wrong: index.wrong().len() as u64, ..Self::default() };
        judgement.offenders.extend(index.wrong().iter().take(NAMED).cloned());
        let lanes: Vec<u32> = done.iter().flat_map(|done| done.lines).collect();
        for (lane, &written) in (0..).zip(&lanes) {
            judgement.compare(lane, written, index.seen(lane), ground);
        }
        for lane in (0..index.lanes()).skip(lanes.len()) {
            judgement.foreign += index.seen(lane).iter().filter(|&&count| count > 0).count() as u64;
        }
        judgement.order(index, lanes.len());
        judgement
    }

    fn compare(&mut self, lane: u32, written: u32, seen: &[u8], ground: &Ground) {
        self.written += u64::from(written);
        let length = (written as usize).max(seen.len());
        let (mut lost, mut doubled, mut foreign) = (Vec::new(), Vec::new(), Vec::new());
        for line in 0..length {
            let count = seen.get(line).copied().unwrap_or(0);
            match (line < written as usize, count) {
                (true, 0) => lost.push(line),
                (true, 1) | (false, 0) => {}
                (true, _) => doubled.push(line),
                (false, _) => foreign.push(line),
            }
        }
        for (what, lines, sum) in [
            ("lost", &lost, &mut self.lost),
            ("doubled", &doubled, &mut self.doubled),
            ("foreign", &foreign, &mut self.foreign),
        ] {
            *sum += lines.len() as u64;
            for line in lines.iter().take(NAMED.saturating_sub(self.offenders.len())) {
                let place = find(ground, lane, *line);
                self.offenders.push(format!("{what}: line {line} of {}: {place}", named(lane)));
            }
        }
    }

    fn order(&mut self, index: &Index, lanes: usize) {
        let mut documents: Vec<_> = index.documents().iter().collect();
        documents.sort_by_key(|stored| (stored.lines.lane, stored.time));
        let mut latest = vec![0_u32; lanes];
        for stored in documents {
            let lines = stored.lines;
            let Some(latest) = latest.get_mut(lines.lane as usize) else { continue };
            if lines.first < *latest {
                self.disordered += 1;
                if self.offenders.len() < NAMED {
                    let lane = named(lines.lane);
                    self.offenders.push(format!("after line {latest} of {lane}: {lines:?}"));
                }
            }
            *latest = (*latest).max(lines.first);
        }
    }
}

fn named(lane: u32) -> String {
    let name = if lane.is_multiple_of(2) { "stdout" } else { "stderr" };
    format!("{name} of {}", Ground::stream(lane / 2))
}

/// In which files a line stands.
fn find(ground: &Ground, lane: u32, line: usize) -> String {
    let mark = format!("@@{lane}.{line}.");
    let places = places(&ground.logs(lane / 2), mark.as_bytes());
    match places {
        Ok(places) if places.is_empty() => "in no file that is there".to_owned(),
        Ok(places) => places.join(", "),
        Err(error) => error.to_string(),
    }
}

fn places(folder: &Path, mark: &[u8]) -> io::Result<Vec<String>> {
    let mut places = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let mut text = Vec::new();
        let file = File::open(&path)?;
        if path.extension().is_some_and(|end| end == "gz") {
            MultiGzDecoder::new(file).read_to_end(&mut text)?;
        } else {
            (&file).read_to_end(&mut text)?;
        }
        if let Some(at) = memmem::find(&text, mark) {
            places.push(format!("{} near byte {at}", path.display()));
        }
    }
    Ok(places)
}
