//! The documents, as the agent would send them for some twenty pods, and their ids.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use memchr::memchr_iter;
use splashdam::config::pipeline::DocumentForm;
use splashdam::demo::tree::{Captures, Numbering, Options, Rotated, Tree};
use splashdam::document::id;
use splashdam::pipeline::reader::Turn;

use crate::road::Road;

const PODS: usize = 20;

/// What a stream contributes before the next one has its turn.
const TURN_BYTES: usize = 256 * 1024;

/// The size of a request.
const REQUEST_BYTES: usize = 5 << 20;

/// More than a line has on average.
const LINE_BYTES: u64 = 1000;

/// What comes before an id in an action, and behind it.
const BEFORE_ID: &[u8] = b"{\"create\":{\"_id\":\"";
const AFTER_ID: &[u8] = b"\"}}\n";

/// Where ids come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Ours,
    Automatic,
    Random,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Ours, Self::Automatic, Self::Random];
}

/// Bulk requests of the agent's.
pub(crate) struct Documents {
    requests: Vec<Vec<u8>>,
    pub(crate) count: usize,
}

impl Documents {
    /// `count` of them from the captures in `raw`.
    pub(crate) fn make(raw: &Path, count: usize) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut roads = roads(raw, folder.path(), count)?;
        let mut documents = Self { requests: vec![Vec::new()], count: 0 };
        while documents.count < count {
            let before = documents.count;
            for road in &mut roads {
                ensure!(matches!(road.read(), Turn::End | Turn::BatchFull), "cannot be read");
                let batch = road.seal();
                documents.add(&batch.body, count);
            }
            ensure!(documents.count > before, "only {before} documents");
        }
        Ok(documents)
    }

    /// Adds items of `body` until there are `most` in all.
    fn add(&mut self, body: &[u8], most: usize) {
        let wanted = most - self.count;
        let end = memchr_iter(b'\n', body).skip(1).step_by(2).take(wanted).last();
        let items = &body[..end.map_or(0, |end| end + 1)];
        self.count += memchr_iter(b'\n', items).count() / 2;
        match self.requests.last_mut() {
            Some(last) if last.len() + items.len() <= REQUEST_BYTES => {
                last.extend_from_slice(items)
            }
            _ => self.requests.push(items.to_vec()),
        }
    }

    pub(crate) fn requests(&self) -> impl Iterator<Item = &[u8]> {
        self.requests.iter().map(Vec::as_slice)
    }

    /// Of a document and its action.
    pub(crate) fn average_bytes(&self) -> usize {
        self.requests().map(<[u8]>::len).sum::<usize>() / self.count
    }
}

fn roads(raw: &Path, folder: &Path, count: usize) -> anyhow::Result<Vec<Road>> {
    let captures = Captures::load(raw)?;
    let options = Options {
        pods: PODS,
        restarts: false,
        rotate_bytes: None,
        rotated: Rotated { gzip: false, keep: None },
        numbering: Numbering { json: true, plain: true },
        step: Duration::from_millis(5),
        ..Options::default()
    };
    let mut tree = Tree::create(folder, &captures, &options)?;
    tree.fill(count as u64 * LINE_BYTES)?;
    let road = |(number, path): (usize, std::path::PathBuf)| {
        let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
        Ok(Road::new(number + 1, &text, DocumentForm::Fluentd, TURN_BYTES))
    };
    tree.pods().iter().map(|pod| pod.live_path()).enumerate().map(road).collect()
}

/// A request with ids of the `way`. `seed` is another one for each request.
pub(crate) fn body(request: &[u8], way: Way, seed: u64) -> Vec<u8> {
    let mut random = Random(seed << 32);
    let mut body = Vec::with_capacity(request.len());
    for (number, line) in request.split_inclusive(|byte| *byte == b'\n').enumerate() {
        if number % 2 == 1 {
            body.extend_from_slice(line);
            continue;
        }
        let ours = line.len() - AFTER_ID.len() - id::LENGTH..line.len() - AFTER_ID.len();
        match way {
            Way::Automatic => {
                body.extend_from_slice(b"{\"create\":{}}\n");
                continue;
            }
            Way::Ours => body.extend([BEFORE_ID, &line[ours]].concat()),
            Way::Random => body.extend([BEFORE_ID, &random.id()].concat()),
        }
        body.extend_from_slice(AFTER_ID);
    }
    body
}

/// SplitMix64: the same bits for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// Characters that an id of the agent may have.
    fn id(&mut self) -> [u8; id::LENGTH] {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        std::array::from_fn(|_| ALPHABET[(self.next() >> 58) as usize])
    }
}
