//! The real directory: its lock, its modes, its end; and a real disk that is full.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::super::Saver;
use super::super::saver::tests::{ask, put};
use super::super::store::{FILE, PODS, Store};
use super::*;

/// Where [`a_disk_that_is_full_or_covered_is_waited_for`] finds its disk once it has one.
const DISK: &str = "SPLASHDAM_TEST_DISK";

fn start(state: &Path) -> (Saver, JoinHandle<bool>) {
    Saver::start(Store::open(state).expect("free"), || ()).expect("started")
}

/// Waits until `stream` is saved, for a lock that is free by now, see [`Store::open_soon`].
fn save_soon(saver: &Saver, stream: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !save(saver, stream) {
        assert!(Instant::now() < deadline, "{stream} can't be saved");
        std::thread::yield_now();
    }
}

/// Whether `stream` could be saved.
fn save(saver: &Saver, stream: &str) -> bool {
    ask(saver, put(stream, 1)).recv().expect("answered")
}

fn end((saver, thread): (Saver, JoinHandle<bool>)) {
    drop(saver);
    assert!(thread.join().expect("ended"), "all is on disk");
}

fn streams(store: &Store) -> Vec<&str> {
    store.checkpoint().keys().map(|key| key.stream.as_str()).collect()
}

fn mode(path: &Path) -> u32 {
    path.metadata().expect("there").permissions().mode() & 0o777
}

#[test]
fn what_was_saved_is_there_after_a_restart_and_private() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = dir.path().join("several/levels");
    let agent = start(&state);
    assert!(save(&agent.0, "a"));
    assert!(matches!(Store::open(&state), Err(StoreError::Locked { .. })));
    end(agent);

    assert_eq!(streams(&Store::open_soon(&state)), ["a"]);
    assert_eq!(mode(&dir.path().join("several")), 0o700);
    assert_eq!(mode(&state), 0o700);
    assert_eq!(mode(&state.join(FILE)), 0o600);
    assert_eq!(mode(&state.join(LOCK)), 0o600);
}

#[test]
fn a_directory_that_was_removed_is_made_anew_with_its_lock_and_all_that_is_known() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = dir.path().join("state");
    let agent = start(&state);
    assert!(save(&agent.0, "a"));
    fs::remove_dir_all(&state).expect("removed");
    assert!(save(&agent.0, "b"));
    assert_eq!(mode(&state), 0o700);
    assert!(state.join(PODS).symlink_metadata().is_ok(), "everything is written");
    assert!(matches!(Store::open(&state), Err(StoreError::Locked { .. })));
    end(agent);
    assert_eq!(streams(&Store::open_soon(&state)), ["a", "b"]);
}

#[test]
fn a_directory_that_another_agent_has_made_anew_is_waited_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = dir.path().join("state");
    let first = start(&state);
    assert!(save(&first.0, "a"));
    fs::remove_dir_all(&state).expect("removed");
    let second = start(&state);
    assert!(save(&second.0, "other"));
    assert!(!save(&first.0, "b"), "it is not the first agent's any more");
    end(second);
    save_soon(&first.0, "c");
    end(first);
    assert_eq!(streams(&Store::open_soon(&state)), ["a", "b", "c"]);
}

#[test]
fn two_agents_never_own_a_directory_whose_lock_was_removed() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = start(dir.path());
    assert!(save(&first.0, "a"));
    fs::remove_file(dir.path().join(LOCK)).expect("removed");
    let second = start(dir.path());
    assert!(!save(&first.0, "b"), "the second agent has the new lock");
    assert!(save(&second.0, "b"));
    end(second);
    fs::remove_file(dir.path().join(LOCK)).expect("removed");
    assert!(save(&first.0, "c"), "a lock that nobody holds is taken anew");
    assert!(matches!(Store::open(dir.path()), Err(StoreError::Locked { .. })));
    end(first);
}

#[test]
fn a_directory_that_was_moved_away_is_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let (state, away) = (dir.path().join("state"), dir.path().join("away"));
    let agent = start(&state);
    assert!(save(&agent.0, "a"));
    fs::rename(&state, &away).expect("moved");
    assert!(save(&agent.0, "b"));
    assert_eq!(streams(&Store::open(&away).expect("nobody's")), ["a"]);
    end(agent);
    assert_eq!(streams(&Store::open_soon(&state)), ["a", "b"]);
}

#[test]
fn what_is_in_the_way_of_a_file_is_said_until_it_has_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path()).expect("free");
    let beside = dir.path().join("checkpoint.new");
    fs::create_dir(&beside).expect("in the way");
    let (saver, thread) = Saver::start(store, || ()).expect("started");
    assert!(!save(&saver, "a"));
    fs::remove_dir(&beside).expect("out of the way");
    end((saver, thread));
    assert_eq!(streams(&Store::open_soon(dir.path())), ["a"]);
}

#[test]
fn links_are_not_followed() {
    let dir = tempfile::tempdir().expect("a directory");
    let elsewhere = dir.path().join("elsewhere");
    fs::write(&elsewhere, "not ours").expect("written");
    let state = dir.path().join("state");
    let agent = start(&state);
    // It writes once by itself when it starts.
    assert!(save(&agent.0, "a"));
    symlink(&elsewhere, state.join("checkpoint.new")).expect("linked");
    assert!(save(&agent.0, "b"));
    end(agent);
    assert_eq!(fs::read(&elsewhere).expect("there"), b"not ours");
    assert!(state.join(FILE).symlink_metadata().expect("there").is_file());

    fs::remove_file(state.join(FILE)).expect("removed");
    symlink(&elsewhere, state.join(FILE)).expect("linked");
    assert!(matches!(Store::open(&state), Err(StoreError::Directory { .. })));
    assert_eq!(fs::read(&elsewhere).expect("there"), b"not ours");
}

/// A real one, of 256 KiB. It takes a namespace of its own to mount it, which every user may
/// have unless the system forbids it.
#[test]
fn a_disk_that_is_full_or_covered_is_waited_for() {
    if let Some(disk) = std::env::var_os(DISK) {
        return fill_and_cover(Path::new(&disk));
    }
    let dir = tempfile::tempdir().expect("a directory");
    let script = "mount -t tmpfs -o size=256k none \"$0\" && exec \"$@\"";
    let inside = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg(dir.path())
        .arg(std::env::current_exe().expect("this test"))
        .args(["--exact", "checkpoint::disk::tests::a_disk_that_is_full_or_covered_is_waited_for"])
        .env(DISK, dir.path())
        .output();
    match inside {
        Ok(inside) if inside.status.success() => {
            let told = String::from_utf8_lossy(&inside.stdout);
            assert!(told.contains("1 passed"), "the test was found under its name: {told}");
        }
        // As the test harness ends when a test has failed.
        Ok(inside) if inside.status.code() == Some(101) => {
            panic!("{}", String::from_utf8_lossy(&inside.stdout));
        }
        // Not captured by the harness, so that nobody takes it for tested.
        other => writeln!(io::stderr(), "SKIPPED: no disk can be mounted here: {other:?}")
            .expect("standard error can be written"),
    }
}

fn fill_and_cover(disk: &Path) {
    let state = disk.join("state");
    let agent = start(&state);
    assert!(save(&agent.0, "a"));
    let before = fs::read(state.join(FILE)).expect("there");

    let mut filler = File::create(disk.join("filler")).expect("created");
    let full = std::iter::repeat_with(|| filler.write_all(&[1; 4096])).find_map(Result::err);
    assert_eq!(full.expect("some day").kind(), io::ErrorKind::StorageFull);
    assert!(!save(&agent.0, "b"));
    assert_eq!(fs::read(state.join(FILE)).expect("there"), before);
    assert!(state.join("checkpoint.new").symlink_metadata().is_err(), "it takes no room");
    // Its room is free once nobody has it open.
    drop(filler);
    fs::remove_file(disk.join("filler")).expect("removed");
    assert!(save(&agent.0, "c"));

    mount(&["mount", "-t", "tmpfs", "-o", "ro", "none"], &state);
    assert!(!save(&agent.0, "d"), "a read-only disk lies over the directory");
    mount(&["umount"], &state);
    assert!(save(&agent.0, "e"));

    mount(&["mount", "-t", "tmpfs", "none"], &state);
    assert!(save(&agent.0, "f"), "another disk lies over the directory");
    assert!(matches!(Store::open(&state), Err(StoreError::Locked { .. })));
    mount(&["umount", "--lazy"], &state);
    assert!(save(&agent.0, "g"));
    end(agent);
    let all = ["a", "b", "c", "d", "e", "f", "g"];
    assert_eq!(streams(&Store::open_soon(&state)), all);
}

fn mount(command: &[&str], at: &Path) {
    let done = Command::new(command[0]).args(&command[1..]).arg(at).status().expect("started");
    assert!(done.success(), "{command:?}");
}
