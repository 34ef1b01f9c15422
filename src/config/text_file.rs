//! Reading the files that a configuration consists of or names.
//!
//! Guarantees a bound on what is read, whatever the path leads to, and messages with the path and
//! never with the contents.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes of a configuration file or of one that it names.
const MAX_BYTES: u64 = 4 << 20;

/// The whole of a text file.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let fault = |why: String| format!("cannot read {}: {why}", path.display());
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    match read {
        Err(error) => Err(fault(reason(&error))),
        Ok(length) if length as u64 > MAX_BYTES => {
            Err(fault(format!("it is larger than {MAX_BYTES} bytes")))
        }
        Ok(_) => String::from_utf8(bytes).map_err(|_| fault("it is not UTF-8 text".to_owned())),
    }
}

/// A text file without its one trailing line end, as secrets are stored.
pub(super) fn read_value(path: &Path) -> Result<String, String> {
    let mut text = read(path)?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// Checks that a file is there and holds PEM.
pub(super) fn check_pem(path: &Path) -> Result<(), String> {
    match read(path)?.contains("-----BEGIN ") {
        true => Ok(()),
        false => Err(format!("{} holds no PEM (`-----BEGIN ...`)", path.display())),
    }
}

/// The system's words for an error, without the number that Rust adds.
pub(super) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}
