//! Outputs on this machine: standard output and a file, one document a line.
//!
//! Owns how a batch is written where there is no server to answer. Guarantees that a batch counts
//! as safe only when all of it is written: to the disk for a file, to whoever reads for standard
//! output. A write that fails is repeated with back-off for as long as it takes, from where it
//! stopped (standard output) or after what it left has been cut off (file), so that no document
//! is there twice. Writes block, and so happen on the runtime's blocking threads; one that is
//! under way when the shipper is dropped still ends by itself.

use std::io::{self, Write};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc::Receiver;

use super::append::Appender;
use super::client::chain;
use super::clock::Clock;
use super::health::{Health, Said};
use super::patience::{Patience, impatient};
use super::response::Cause;
use super::retry::Backoff;
use super::{Given, Report};
use crate::pipeline::batch::{Batch, Outcome, Told};
use crate::telemetry::metrics::count_forgotten_batch;

/// Where lines are written.
pub(super) enum Sink {
    Stdout(Box<dyn Write + Send>),
    File { path: PathBuf, open: Option<Appender> },
}

impl Sink {
    pub(super) fn stdout() -> Self {
        Self::Stdout(Box::new(io::stdout()))
    }

    pub(super) fn file(path: PathBuf) -> Self {
        Self::File { path, open: None }
    }

    /// Writes what is after `done` of `lines`; `done` moves on with what is safe.
    fn write(&mut self, lines: &[u8], done: &mut usize) -> io::Result<()> {
        match self {
            Self::Stdout(out) => {
                while *done < lines.len() {
                    match out.write(&lines[*done..]) {
                        Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                        Ok(written) => *done += written,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                out.flush()
            }
            Self::File { path, open } => {
                let file = match open.take() {
                    Some(file) if file.is_at(path) => file,
                    // What was rotated away is complete; its lock goes with it.
                    _ => Appender::open(path)?,
                };
                // Kept after an error too: it knows what is to be cut off.
                open.insert(file).append(lines)?;
                *done = lines.len();
                Ok(())
            }
        }
    }
}

/// Writes every batch until `batches` is closed. Cancel safe.
pub(super) async fn run(
    pipeline: String,
    mut sink: Sink,
    mut batches: Receiver<Batch>,
    report: Report,
    health: Arc<Health>,
    Given { clock, seed, .. }: Given,
) {
    health.answered();
    let mut patience = Patience::default();
    while let Some(batch) = batches.recv().await {
        patience.given(clock.now());
        let lines = batch.body.clone();
        let mut writing = pin!(write_all(&pipeline, sink, lines, &health, &clock, seed));
        sink = loop {
            tokio::select! {
                sink = &mut writing => break sink,
                () = impatient(&clock, patience.ends()) => patience.ended(),
                Some(batch) = batches.recv(), if patience.is_dead() => {
                    let (worker, sequence) = (batch.worker, batch.sequence);
                    drop(batch);
                    count_forgotten_batch(&pipeline);
                    report(Told::Forgotten { worker, sequence });
                }
            }
        };
        health.recovered();
        let outcome = all_written(&batch);
        // The permit is given back first: whoever hears of the outcome may use it.
        drop(batch);
        health.acknowledged(clock.now());
        let is_back = patience.acknowledged(clock.now(), false);
        report(Told::Safe(outcome));
        if is_back {
            report(Told::Back);
        }
    }
}

/// Writes `lines`, however often that takes.
async fn write_all(
    pipeline: &str,
    mut sink: Sink,
    lines: Bytes,
    health: &Health,
    clock: &Clock,
    seed: u64,
) -> Sink {
    let mut backoff = Backoff::new(seed);
    let mut done = 0;
    loop {
        let written;
        (sink, done, written) = write_aside(sink, lines.clone(), done).await;
        let Err(error) = written else {
            return sink;
        };
        health.troubled(Cause::WriteFailed);
        if health.may_say(Said::Trouble(Cause::WriteFailed), clock.now()) {
            let detail = chain(&error);
            tracing::error!(pipeline, detail, "cannot write the output, trying again");
        }
        clock.sleep(backoff.next_wait(None)).await;
    }
}

async fn write_aside(
    mut sink: Sink,
    lines: Bytes,
    mut done: usize,
) -> (Sink, usize, io::Result<()>) {
    let work = tokio::task::spawn_blocking(move || {
        let written = sink.write(&lines, &mut done);
        (sink, done, written)
    });
    match work.await {
        Ok(answer) => answer,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is ending, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

fn all_written(batch: &Batch) -> Outcome {
    Outcome {
        worker: batch.worker,
        sequence: batch.sequence,
        documents_indexed: batch.items.len() as u64,
        lines_indexed: batch.items.iter().map(|item| u64::from(item.lines)).sum(),
        ..Outcome::default()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Mutex;

    use super::*;

    /// Takes a few bytes at a time and fails every other time.
    struct Reluctant {
        taken: Arc<Mutex<Vec<u8>>>,
        refuses: bool,
    }

    impl Write for Reluctant {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.refuses = !self.refuses;
            if self.refuses {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let some = &bytes[..bytes.len().min(5)];
            self.taken.lock().expect("unlocked").extend_from_slice(some);
            Ok(some.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Writes until it works; how often it did not.
    fn write(sink: &mut Sink, lines: &[u8]) -> usize {
        let (mut done, mut failures) = (0, 0);
        while sink.write(lines, &mut done).is_err() {
            failures += 1;
        }
        assert_eq!(done, lines.len());
        failures
    }

    #[test]
    fn standard_output_goes_on_where_it_stopped() {
        let taken = Arc::default();
        let out = Reluctant { taken: Arc::clone(&taken), refuses: false };
        let mut sink = Sink::Stdout(Box::new(out));
        assert_eq!(write(&mut sink, b"{\"message\":1}\n"), 3);
        write(&mut sink, b"{}\n");
        assert_eq!(*taken.lock().expect("unlocked"), b"{\"message\":1}\n{}\n");
    }

    #[test]
    fn a_file_holds_every_batch_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("out.ndjson");
        let mut sink = Sink::file(path.clone());
        assert_eq!(write(&mut sink, b"1\n2\n"), 0);
        assert_eq!(write(&mut sink, b"3\n"), 0);
        drop(sink);
        let mut sink = Sink::file(path.clone());
        assert_eq!(write(&mut sink, b"4\n"), 0);
        assert_eq!(fs::read(&path).expect("read"), b"1\n2\n3\n4\n");
        fs::remove_file(&path).expect("remove");
        assert_eq!(write(&mut sink, b"5\n"), 0);
        assert_eq!(fs::read(&path).expect("read"), b"5\n");
    }
}
