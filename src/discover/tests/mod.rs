//! The scanner against an independent walk over a real directory, and the thread against time.

mod hints;
mod watches;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use proptest::prelude::*;

use super::directory::{Depth, Place};
use super::scan::{Probe, Scanner};
use super::*;
use crate::config::agent::{LineFormat, Start};

/// What has been reported, or is there: the files of each stream, and whether a later run is.
type View = BTreeMap<StreamName, (Vec<FileSeen>, bool)>;

struct Tree {
    directory: tempfile::TempDir,
    /// Directories are given times that differ, long past, so that none is listed for its youth.
    age: u64,
}

impl Tree {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("pods")).unwrap();
        fs::create_dir(directory.path().join("docker")).unwrap();
        Self { directory, age: 0 }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    fn logs(&self) -> Logs {
        Logs {
            root: self.path("pods"),
            docker_root: self.path("docker"),
            format: LineFormat::Auto,
            max_line_bytes: 1 << 20,
            start: Start::Oldest,
            include_self: false,
            rescan: Duration::from_secs(3600),
        }
    }

    fn write(&self, below: &str, text: &str) {
        let path = self.path(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn age(&mut self) {
        let mut open = vec![self.path("pods"), self.path("docker")];
        while let Some(path) = open.pop() {
            let entries = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
            open.extend(
                entries.filter(|path| path.symlink_metadata().is_ok_and(|found| found.is_dir())),
            );
            self.age += 1;
            let past = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + self.age);
            File::open(&path).unwrap().set_modified(past).unwrap();
        }
    }

    fn walk(&self) -> View {
        let mut view = View::new();
        for pod in entries(&self.path("pods")) {
            let Some(name) = path::pod_directory(pod.file_name().unwrap()) else { continue };
            for container in entries(&pod) {
                let mut streams: BTreeMap<u32, Vec<FileSeen>> = BTreeMap::new();
                for file in entries(&container) {
                    let Some((restart, kind)) = path::part(file.file_name().unwrap()) else {
                        continue;
                    };
                    streams.entry(restart).or_default().push(seen(file, kind));
                }
                let latest = streams.keys().max().copied();
                for (restart, mut files) in streams {
                    files.sort_by_key(|file| (file.kind == PartKind::Live, file.path.clone()));
                    let container = container.file_name().unwrap().to_str().unwrap().to_owned();
                    view.insert(stream(&name, container, restart), (files, latest > Some(restart)));
                }
            }
        }
        view
    }
}

fn stream(name: &path::PodName, container: String, restart: u32) -> StreamName {
    let path::PodName { namespace, pod, uid } = name.clone();
    StreamName { namespace, pod, uid, container, restart }
}

fn seen(path: PathBuf, kind: PartKind) -> FileSeen {
    let metadata = fs::symlink_metadata(&path).unwrap();
    let modified_ns = metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec();
    let (device, inode, size) = (metadata.dev(), metadata.ino(), metadata.size());
    FileSeen { path, kind, device, inode, size, modified_ns }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Scans and takes what was found over into `view`; whether the scan was complete.
fn scan(scanner: &mut Scanner, depth: Depth, view: &mut View) -> bool {
    let mut complete = None;
    for found in scanner.scan(depth, &mut |_, _| true) {
        assert_eq!(complete, None, "something behind Scanned");
        match found {
            Found::Stream { name, files, later_restart } => {
                let new = (files, later_restart);
                assert_ne!(view.get(&name), Some(&new), "reported without need");
                view.insert(name, new);
            }
            Found::Gone(name) => assert!(view.remove(&name).is_some(), "gone without having been"),
            Found::Written(name) => panic!("a scan does not hint: {name}"),
            Found::Scanned { complete: whether } => complete = Some(whether),
        }
    }
    complete.unwrap()
}

#[derive(Debug, Clone)]
enum Action {
    Append,
    Rotate,
    Gzip,
    DeleteFile,
    DeletePod,
    Truncate,
    Recreate,
    Junk,
    Age,
    Scan,
    FullScan,
}

fn apply(tree: &mut Tree, action: &Action, pod: u8, restart: u8, step: usize) {
    let container = tree.path(&format!("pods/ns_pod-{pod}_uid-{pod}/main"));
    let live = container.join(format!("{restart}.log"));
    let oldest = || entries(&container).into_iter().filter(|path| !path.ends_with("0.log")).min();
    match action {
        Action::Append => {
            tree.write(&format!("pods/ns_pod-{pod}_uid-{pod}/main/{restart}.log"), "line\n")
        }
        Action::Rotate => {
            let rotated = container.join(format!("{restart}.log.20261123-{step:06}"));
            if fs::rename(&live, rotated).is_ok() {
                File::create(&live).unwrap();
            }
        }
        Action::Gzip => {
            let rotated = oldest().filter(|path| {
                path::part(path.file_name().unwrap())
                    .is_some_and(|(_, kind)| kind == PartKind::Rotated)
            });
            if let Some(rotated) = rotated {
                let name = rotated.display().to_string();
                fs::write(format!("{name}.tmp"), b"gzip").unwrap();
                fs::rename(format!("{name}.tmp"), format!("{name}.gz")).unwrap();
                fs::remove_file(rotated).unwrap();
            }
        }
        Action::DeleteFile => oldest().into_iter().for_each(|path| fs::remove_file(path).unwrap()),
        Action::DeletePod => {
            fs::remove_dir_all(container.parent().unwrap()).ok();
        }
        Action::Truncate => {
            OpenOptions::new().write(true).truncate(true).open(&live).ok();
        }
        Action::Recreate if live.try_exists().unwrap() => {
            fs::write(container.join("new"), "x").unwrap();
            fs::rename(container.join("new"), &live).unwrap();
        }
        Action::Junk if container.try_exists().unwrap() => {
            fs::write(container.join("0.log.tmp"), "").unwrap()
        }
        Action::Age => tree.age(),
        Action::Recreate | Action::Junk | Action::Scan | Action::FullScan => {}
    }
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => Just(Action::Append), 3 => Just(Action::Rotate), 2 => Just(Action::Gzip),
        1 => Just(Action::DeleteFile), 1 => Just(Action::DeletePod), 1 => Just(Action::Truncate),
        1 => Just(Action::Recreate), 1 => Just(Action::Junk), 4 => Just(Action::Age),
        5 => Just(Action::Scan), 1 => Just(Action::FullScan),
    ]
}

proptest! {
    #[test]
    fn what_is_reported_is_what_is_there(
        actions in prop::collection::vec((action(), 0u8..2, 0u8..2), 1..40),
    ) {
        let mut tree = Tree::new();
        let mut scanner = Scanner::new(&tree.logs(), None);
        let mut view = View::new();
        for (step, (action, pod, restart)) in actions.iter().enumerate() {
            apply(&mut tree, action, *pod, *restart, step);
            let depth = match action {
                Action::Scan => Depth::Changed,
                Action::FullScan => Depth::Full,
                _ => continue,
            };
            prop_assert!(scan(&mut scanner, depth, &mut view));
            prop_assert_eq!(&view, &tree.walk());
        }
        tree.age();
        scan(&mut scanner, Depth::Changed, &mut view);
        prop_assert_eq!(&view, &tree.walk());
        prop_assert_eq!(scanner.scan(Depth::Full, &mut |_, _| true), vec![Found::Scanned { complete: true }]);
    }
}

#[test]
fn a_quiet_tree_is_not_listed_again() {
    let mut tree = Tree::new();
    tree.write("pods/a_b_c/main/0.log", "x");
    tree.age();
    let mut scanner = Scanner::new(&tree.logs(), None);
    let mut listed = |depth| {
        let mut listed = 0;
        scanner.scan(depth, &mut |_, _| {
            listed += 1;
            true
        });
        listed
    };
    assert_eq!([listed(Depth::Changed), listed(Depth::Changed), listed(Depth::Full)], [3, 0, 3]);
    File::create(tree.path("pods/a_b_c/main/1.log")).unwrap();
    assert_eq!(
        [listed(Depth::Changed), listed(Depth::Changed)],
        [1, 1],
        "young ones are listed again"
    );
}

#[test]
fn only_regular_files_of_real_directories_count() {
    let tree = Tree::new();
    tree.write("outside/0.log", "secret");
    tree.write("pods/a_b_c/main/1.log", "x");
    tree.write("pods/a_b_c/main/0.log.20261123-210608.tmp", "x");
    tree.write("pods/a_b_c/file", "x");
    tree.write("pods/not-a-pod/main/0.log", "x");
    fs::create_dir(tree.path("pods/a_b_c/main/2.log")).unwrap();
    symlink(tree.path("outside/0.log"), tree.path("pods/a_b_c/main/0.log")).unwrap();
    symlink(tree.path("outside"), tree.path("pods/a_b_c/linked")).unwrap();
    symlink(tree.path("outside"), tree.path("pods/d_e_f")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        tree.path("pods/a_b_c/main/3.log"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let mut view = View::new();
    scan(&mut Scanner::new(&tree.logs(), None), Depth::Changed, &mut view);
    let names: Vec<_> = view.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["a_b_c/main/1"]);
}

#[test]
fn docker_links_lead_to_the_log_and_what_was_rotated() {
    let mut tree = Tree::new();
    for file in
        ["ab-json.log", "ab-json.log.1", "ab-json.log.2.gz", "ab-json.log.10.gz", "config.v2.json"]
    {
        tree.write(&format!("docker/ab/{file}"), file);
    }
    fs::create_dir_all(tree.path("pods/a_b_c/main")).unwrap();
    symlink(tree.path("docker/ab/ab-json.log"), tree.path("pods/a_b_c/main/0.log")).unwrap();
    let mut scanner = Scanner::new(&tree.logs(), None);
    let mut view = View::new();
    let files = |view: &View| -> Vec<String> {
        let files = view.values().flat_map(|(files, _)| files);
        files
            .map(|file| {
                file.path.strip_prefix(tree.directory.path()).unwrap().display().to_string()
            })
            .collect()
    };
    scan(&mut scanner, Depth::Changed, &mut view);
    let expected = [
        "docker/ab/ab-json.log.10.gz",
        "docker/ab/ab-json.log.2.gz",
        "docker/ab/ab-json.log.1",
        "docker/ab/ab-json.log",
    ];
    assert_eq!(files(&view), expected);
    fs::rename(tree.path("docker/ab/ab-json.log.1"), tree.path("docker/ab/ab-json.log.3")).unwrap();
    tree.write("docker/ab/ab-json.log", "more");
    scan(&mut scanner, Depth::Changed, &mut view);
    assert_eq!(files(&view)[1..3], ["docker/ab/ab-json.log.3", "docker/ab/ab-json.log.2.gz"]);
    assert_eq!(view.values().next().unwrap().0[3].size, 15);

    let cri = Logs { format: LineFormat::Cri, ..tree.logs() };
    let mut none = View::new();
    scan(&mut Scanner::new(&cri, None), Depth::Changed, &mut none);
    assert!(none.is_empty());

    fs::remove_dir_all(tree.path("docker/ab")).unwrap();
    tree.age();
    scan(&mut scanner, Depth::Changed, &mut view);
    assert!(view.is_empty());
}

#[test]
fn a_root_that_is_missing_or_unreadable_keeps_what_was_known() {
    let tree = Tree::new();
    let (root, aside) = (tree.path("pods"), tree.path("aside"));
    let mut scanner = Scanner::new(&tree.logs(), None);
    let mut view = View::new();
    fs::rename(&root, &aside).unwrap();
    assert!(!scan(&mut scanner, Depth::Changed, &mut view));
    fs::rename(&aside, &root).unwrap();
    tree.write("pods/a_b_c/main/0.log", "x");
    assert!(scan(&mut scanner, Depth::Changed, &mut view));
    let known = view.clone();
    assert_eq!(known.len(), 1);
    fs::rename(&root, &aside).unwrap();
    symlink(&root, &root).unwrap();
    assert!(!scan(&mut scanner, Depth::Changed, &mut view));
    assert_eq!(view, known);
    fs::remove_file(&root).unwrap();
    fs::rename(&aside, &root).unwrap();
    assert!(scan(&mut scanner, Depth::Changed, &mut view));
    assert_eq!(view, tree.walk());
}

#[test]
fn the_own_pod_is_left_out() {
    let tree = Tree::new();
    for pod in ["a_self_1", "b_self_2", "a_other_3"] {
        tree.write(&format!("pods/{pod}/main/0.log"), "x");
    }
    let check = |logs: &Logs, namespace: Option<&str>, expected: &[&str]| {
        let own = OwnPod { namespace: namespace.map(str::to_owned), pod: "self".to_owned() };
        let mut view = View::new();
        scan(&mut Scanner::new(logs, Some(own)), Depth::Changed, &mut view);
        assert_eq!(view.keys().map(|name| &*name.uid).collect::<Vec<_>>(), expected);
    };
    check(&tree.logs(), Some("a"), &["3", "2"]);
    check(&tree.logs(), None, &["3"]);
    let with_self = Logs { include_self: true, ..tree.logs() };
    check(&with_self, Some("a"), &["3", "1", "2"]);
}

#[test]
fn a_probe_sees_growth_and_change() {
    let mut tree = Tree::new();
    tree.write("pods/a_b_c/main/0.log", "x");
    tree.age();
    let mut scanner = Scanner::new(&tree.logs(), None);
    let mut view = View::new();
    scan(&mut scanner, Depth::Changed, &mut view);
    let name = view.keys().next().unwrap().clone();
    let os = |text: &str| Arc::from(std::ffi::OsStr::new(text));
    let place = Place::Container(os("a_b_c"), os("main"));
    assert_eq!(scanner.probe(&place), Probe::Quiet);
    tree.write("pods/a_b_c/main/0.log", "y");
    assert_eq!(scanner.probe(&place), Probe::Written(vec![name]));
    assert_eq!(scanner.probe(&place), Probe::Quiet);
    tree.write("pods/a_b_c/main/1.log", "new");
    assert_eq!(scanner.probe(&place), Probe::Changed, "another file has come");
    scan(&mut scanner, Depth::Full, &mut view);
    assert_eq!(scanner.probe(&place), Probe::Quiet);
    fs::remove_file(tree.path("pods/a_b_c/main/0.log")).unwrap();
    assert_eq!(scanner.probe(&place), Probe::Changed);
    assert_eq!(scanner.probe(&Place::Root), Probe::Quiet);
}

/// Takes reports until one is as wanted.
fn wait_for(reports: &Receiver<Found>, wanted: impl Fn(&Found) -> bool) -> Found {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let found = reports.recv_timeout(left).expect("nothing of what is wanted was reported");
        if wanted(&found) {
            return found;
        }
    }
}

#[test]
fn events_are_passed_on_long_before_the_interval() {
    let tree = Tree::new();
    let (sender, reports) = sync_channel(1024);
    let discovery = start(&tree.logs(), None, move |found| sender.send(found).unwrap()).unwrap();
    wait_for(&reports, |found| *found == Found::Scanned { complete: true });
    let live = "pods/a_b_c/main/0.log";
    tree.write(live, "x");
    let is_file = |found: &Found, size: u64, count: usize| matches!(found, Found::Stream { files, .. } if files.len() == count && files[count - 1].size == size);
    let first = wait_for(&reports, |found| matches!(found, Found::Stream { .. }));
    let Found::Stream { name, .. } = first else { unreachable!() };
    for _ in 0..3 {
        tree.write(live, "y");
        wait_for(&reports, |found| *found == Found::Written(name.clone()));
    }
    fs::rename(tree.path(live), tree.path("pods/a_b_c/main/0.log.20261123-210608")).unwrap();
    tree.write(live, "new");
    wait_for(&reports, |found| is_file(found, 3, 2) || is_file(found, 0, 2));
    discovery.rescan_now();
    wait_for(&reports, |found| matches!(found, Found::Scanned { .. }));
    fs::remove_dir_all(tree.path("pods/a_b_c")).unwrap();
    wait_for(&reports, |found| *found == Found::Gone(name.clone()));
    discovery.stop();
    assert!(reports.iter().all(|found| !matches!(found, Found::Scanned { .. })));
}
