//! A file system of a few hundred kilobytes, for what happens when a disk is full.
//!
//! A tmpfs in a user and mount namespace of its own, so that a test needs no more rights than any
//! user has, and nobody else ever sees it. One process holds the namespace; programs are started in
//! it, and the test reaches the files through that process. Where the system allows no such
//! namespaces the test fails and says so.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const FILLER: &str = "filler";

/// Says that it is mounted, and then waits for the end of its input.
const HOLD: &str = r#"mount -t tmpfs -o size="$1",mode=700 tmpfs "$2" && echo mounted && exec cat"#;

/// A small file system. It goes with the value.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    holder: Child,
    at: PathBuf,
}

impl SmallDisk {
    /// Mounts one at `at`, which is absolute.
    pub(crate) fn mount(at: &Path, bytes: u64) -> Self {
        fs::create_dir_all(at).unwrap();
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", HOLD, "sh"])
            .arg(bytes.to_string())
            .arg(at)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare is needed (util-linux)");
        let mut said = String::new();
        let mut output = BufReader::new(holder.stdout.take().expect("it was asked for"));
        output.read_line(&mut said).unwrap();
        let disk = Self { holder, at: at.to_owned() };
        assert_eq!(said, "mounted\n", "user namespaces in which a tmpfs may be mounted are needed");
        disk
    }

    /// Where its files are for everybody outside.
    pub(crate) fn folder(&self) -> PathBuf {
        let at = self.at.strip_prefix("/").expect("it is absolute");
        Path::new(&format!("/proc/{}/root", self.holder.id())).join(at)
    }

    /// What runs `program` where the file system is to be seen.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        let holder = self.holder.id().to_string();
        command.args(["--user", "--mount", "--preserve-credentials", "--target", &holder, "--"]);
        command.arg(program);
        command
    }

    /// Takes all the room there is.
    pub(crate) fn fill(&self) {
        let mut filler = File::create(self.folder().join(FILLER)).unwrap();
        let full = loop {
            if let Err(error) = filler.write_all(&[b'x'; 4096]) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
    }

    /// Gives it back.
    pub(crate) fn make_room(&self) {
        fs::remove_file(self.folder().join(FILLER)).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // it may have ended already, and then both have nothing to do
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}
