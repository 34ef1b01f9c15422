//! What the containers print: lines that real Flink processes printed, and lines made to be hard.
//!
//! Owns the mix. Every line but a blank one carries its marks; the same dice give the same lines.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, ensure};
use flate2::read::GzDecoder;
use serde_json::{Map, Value};

use crate::dice::Dice;
use crate::marks::mark;

/// Layouts whose lines are one JSON object each.
const JSON_LAYOUTS: [&str; 5] = ["ecs", "gelf", "jsonlayout", "logstash", "custom"];

/// In a long line there is a mark each time so many bytes have passed.
const MARK_EVERY: usize = 4000;

/// Captured lines without their line feeds.
#[derive(Debug)]
pub(crate) struct Source {
    json: Vec<Vec<u8>>,
    plain: Vec<Vec<u8>>,
}

/// Numbers the lines of one lane.
#[derive(Debug)]
pub(crate) struct Numbers {
    pub(crate) lane: u32,
    pub(crate) next: u32,
}

impl Numbers {
    fn take(&mut self) -> u32 {
        self.next += 1;
        self.next - 1
    }

    fn short(&mut self) -> String {
        let line = self.take();
        mark(self.lane, line, 0, 0)
    }

    /// At least `length` bytes of marked filling, as one line has it.
    fn long(&mut self, length: usize) -> String {
        let line = self.take();
        let last = u32::try_from(length / MARK_EVERY).expect("lines are far below 4 GiB");
        let mut text = String::with_capacity(length + length / 16);
        for part in 0..=last {
            text.push_str(&mark(self.lane, line, part, last));
            if part < last {
                let filling = "0123456789 abcdefghijklmnopqrstuvwxyz äöü ";
                text.extend(filling.chars().cycle().take(MARK_EVERY - 60));
            }
        }
        text
    }
}

impl Source {
    /// Reads `tests/fixtures`.
    pub(crate) fn load() -> anyhow::Result<Self> {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let mut json = Vec::new();
        for layout in JSON_LAYOUTS {
            json.extend(captured(&fixtures.join(layout))?.into_iter().filter(|line| {
                serde_json::from_slice::<Map<String, Value>>(line).is_ok_and(|map| !map.is_empty())
            }));
        }
        let mut plain = captured(&fixtures.join("pattern"))?;
        plain.retain(|line| !line.trim_ascii().is_empty());
        ensure!(!json.is_empty() && !plain.is_empty(), "no captures in {}", fixtures.display());
        Ok(Self { json, plain })
    }

    /// The next lines of a lane: one, or those of a stack trace.
    pub(crate) fn next(&self, dice: &mut Dice, numbers: &mut Numbers) -> Vec<Vec<u8>> {
        match dice.below(10_000) {
            0..6500 => vec![spliced(dice.pick::<Vec<u8>>(&self.json), &numbers.short())],
            6500..8300 => vec![followed(dice.pick::<Vec<u8>>(&self.plain), &numbers.short())],
            8300..9300 => vec![format!("plain text {}", numbers.short()).into_bytes()],
            9300..9850 => trace(dice, numbers),
            9850..9930 => vec![Vec::new()],
            9930..9975 => long(dice, numbers, 17_000, 70_000),
            9975..9997 => long(dice, numbers, 1_000, 17_000),
            _ => long(dice, numbers, 290_000, 310_000),
        }
    }

    /// A JSON line, which no other line continues.
    pub(crate) fn json(&self, dice: &mut Dice, numbers: &mut Numbers) -> Vec<u8> {
        spliced(dice.pick::<Vec<u8>>(&self.json), &numbers.short())
    }
}

fn captured(folder: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let read = || -> std::io::Result<Vec<Vec<u8>>> {
        let mut lines = Vec::new();
        let mut paths = fs::read_dir(folder)?
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<Vec<_>>>()?;
        paths.sort();
        for path in paths.iter().filter(|path| path.extension().is_some_and(|end| end == "gz")) {
            let mut text = Vec::new();
            GzDecoder::new(File::open(path)?).read_to_end(&mut text)?;
            lines.extend(text.split(|&byte| byte == b'\n').map(<[u8]>::to_vec));
        }
        Ok(lines)
    };
    read().with_context(|| format!("cannot read captures in {}", folder.display()))
}

/// A JSON object with one more member.
fn spliced(object: &[u8], text: &str) -> Vec<u8> {
    let body = object.trim_ascii_end().strip_suffix(b"}").expect("it was read as an object");
    [body, b",\"torture\":\"", text.as_bytes(), b"\"}"].concat()
}

fn followed(line: &[u8], text: &str) -> Vec<u8> {
    [line, b" ", text.as_bytes()].concat()
}

fn long(dice: &mut Dice, numbers: &mut Numbers, low: u64, high: u64) -> Vec<Vec<u8>> {
    let length = usize::try_from(dice.between(low, high)).expect("far below 4 GiB");
    let text = numbers.long(length);
    let json = dice.percent(60);
    vec![if json { format!("{{\"message\":\"{text}\"}}").into_bytes() } else { text.into_bytes() }]
}

fn trace(dice: &mut Dice, numbers: &mut Numbers) -> Vec<Vec<u8>> {
    let mut lines = vec![format!("java.lang.IllegalStateException: {}", numbers.short())];
    for depth in 0..dice.between(2, 25) {
        if depth > 2 && dice.one_in(8) {
            lines.push(format!("Caused by: java.io.IOException: {}", numbers.short()));
        }
        let place = numbers.short();
        lines.push(format!("\tat org.example.Torture.depth{depth}(Torture.java:{depth}) {place}"));
    }
    lines.into_iter().map(String::into_bytes).collect()
}
