use std::io::Write;
use std::os::unix::fs::MetadataExt;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

/// A directory with the files of one stream.
struct Dir {
    dir: tempfile::TempDir,
    stream: Stream,
}

impl Dir {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory"), stream: Stream::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("written");
    }

    fn gzip(&self, from: &str, to: &str) {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&std::fs::read(self.path(from)).expect("read")).expect("in memory");
        std::fs::write(self.path(to), encoder.finish().expect("in memory")).expect("written");
        std::fs::remove_file(self.path(from)).expect("removed");
    }

    fn refresh(&mut self) -> Refreshed {
        let files = self.list();
        self.stream.refresh(&files, false, LineFormat::Auto)
    }

    fn list(&self) -> Vec<FileSeen> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(self.dir.path()).expect("listed") {
            let entry = entry.expect("listed");
            let metadata = entry.metadata().expect("looked at");
            let name = entry.file_name().into_string().expect("a test's name");
            let kind = match name.as_str() {
                "0.log" => PartKind::Live,
                name if name.ends_with(".gz") => PartKind::Gzip,
                _ => PartKind::Rotated,
            };
            files.push(FileSeen {
                path: entry.path(),
                kind,
                device: metadata.dev(),
                inode: metadata.ino(),
                size: metadata.len(),
                modified_ns: file::modified_ns(&metadata),
            });
        }
        files
    }

    /// What can be read of each part from `offset` on.
    fn texts(&mut self, offset: u64) -> Vec<String> {
        let ids: Vec<PartId> = self.stream.parts().iter().map(|part| part.id).collect();
        let mut texts = Vec::new();
        for id in ids {
            let mut buffer = vec![0; 10_000];
            let part = self.stream.part_mut(id).expect("listed");
            let read = part.source().expect("opened").read_at(offset, &mut buffer).expect("read");
            texts.push(String::from_utf8_lossy(&buffer[..read]).into_owned());
        }
        texts
    }
}

fn line(second: u32, text: &str) -> String {
    format!("2026-11-23T21:06:{second:02}Z stdout F {text}\n")
}

#[test]
fn parts_are_in_the_order_of_their_first_line_whatever_their_names_say() {
    let mut dir = Dir::new();
    dir.write("0.log", &line(3, "newest"));
    dir.write("0.log.20261123-010000", &line(1, "oldest"));
    dir.write("0.log.20261122-010000", &line(2, "between"));
    dir.refresh();
    assert_eq!(dir.texts(0), [line(1, "oldest"), line(2, "between"), line(3, "newest")]);
}

#[test]
fn a_part_is_the_same_after_rename_and_compression() {
    let mut dir = Dir::new();
    dir.write("0.log", &(line(1, "a") + &line(1, "b")));
    dir.refresh();
    let born = dir.stream.parts()[0].id;
    std::fs::rename(dir.path("0.log"), dir.path("0.log.20261123-210700")).expect("renamed");
    dir.write("0.log", &line(2, "c"));
    dir.refresh();
    assert_eq!(dir.stream.parts().len(), 2);
    assert_eq!(dir.stream.parts()[0].id, born);
    dir.stream.close_reopenable();
    dir.gzip("0.log.20261123-210700", "0.log.20261123-210700.gz");
    dir.refresh();
    assert_eq!(dir.stream.parts().len(), 2);
    assert_eq!(dir.stream.parts()[0].id, born);
    assert_eq!(dir.texts(0)[0], line(1, "a") + &line(1, "b"));
}

#[test]
fn a_part_that_is_wanted_stays_readable_after_it_was_removed() {
    let mut dir = Dir::new();
    dir.write("0.log.20261123-210700", &line(1, "a"));
    dir.write("0.log", &line(2, "b"));
    dir.refresh();
    let from = Position { part: dir.stream.parts()[0].id, offset: 0 };
    std::fs::remove_file(dir.path("0.log.20261123-210700")).expect("removed");
    std::fs::remove_file(dir.path("0.log")).expect("removed");
    dir.refresh();
    assert!(dir.stream.release(Some(from)).is_empty());
    assert_eq!(dir.texts(0), [line(1, "a"), line(2, "b")]);
    assert_eq!(dir.stream.release(None).len(), 2);
    assert!(dir.stream.parts().is_empty());
}

#[test]
fn a_part_that_is_wanted_and_gone_is_named() {
    let mut dir = Dir::new();
    dir.write("0.log", &line(1, "a"));
    dir.refresh();
    let from = Position { part: dir.stream.parts()[0].id, offset: 10 };
    dir.stream.close_reopenable();
    std::fs::remove_file(dir.path("0.log")).expect("removed");
    dir.refresh();
    let lost = dir.stream.release(Some(from));
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0].end(), Some(line(1, "a").len() as u64));
}

#[test]
fn a_copy_takes_the_place_of_a_file_that_was_truncated() {
    let mut dir = Dir::new();
    dir.write("0.log", &(line(1, "a") + &line(1, "b")));
    dir.refresh();
    let born = dir.stream.parts()[0].id;
    std::fs::copy(dir.path("0.log"), dir.path("0.log.20261123-210700")).expect("copied");
    dir.write("0.log", &line(5, "after"));
    dir.refresh();
    assert_eq!(dir.stream.parts().len(), 2);
    assert_eq!(dir.stream.parts()[0].id, born);
    assert_eq!(dir.texts(0), [line(1, "a") + &line(1, "b"), line(5, "after")]);
}

#[test]
fn a_file_without_a_complete_line_is_not_a_part_yet() {
    let mut dir = Dir::new();
    dir.write("0.log", "2026-11-23T21:06:01Z stdout F not yet");
    assert!(dir.refresh().unborn);
    assert!(dir.stream.parts().is_empty());
    dir.write("0.log", &line(1, "now"));
    assert!(!dir.refresh().unborn);
    assert_eq!(dir.stream.parts().len(), 1);
}

#[test]
fn a_reused_inode_is_another_part() {
    let mut dir = Dir::new();
    dir.write("0.log", &line(1, "a"));
    dir.refresh();
    dir.stream.release(None);
    // The same inode with other content, as after removal and reuse.
    dir.write("0.log", &(line(2, "b") + &line(2, "longer than before")));
    dir.refresh();
    for _ in 0..SCANS_MIN {
        dir.stream.scanned();
    }
    dir.stream.release(None);
    assert_eq!(dir.texts(0), [line(2, "b") + &line(2, "longer than before")]);
}

#[test]
fn a_listing_that_a_rotation_has_overtaken_takes_no_part_for_another() {
    let mut dir = Dir::new();
    dir.write("0.log", &line(1, "a"));
    dir.refresh();
    let born = dir.stream.parts()[0].id;
    dir.write("0.log", &(line(1, "a") + &line(1, "b")));
    let late = dir.list();
    std::fs::rename(dir.path("0.log"), dir.path("0.log.20261123-210700")).expect("renamed");
    dir.write("0.log", &(line(2, "c") + &line(2, "longer than what was before")));
    let refreshed = dir.stream.refresh(&late, false, LineFormat::Auto);
    assert!(refreshed.moved && !dir.stream.is_complete());
    assert_eq!(dir.stream.parts().iter().map(|part| part.id).collect::<Vec<_>>(), [born]);
    assert!(!dir.stream.parts()[0].unlinked, "nothing is known of it");
    assert!(!dir.refresh().moved && dir.stream.is_complete());
    assert_eq!(dir.texts(0).len(), 2);
}

#[test]
fn a_file_that_was_emptied_is_let_go_of() {
    let mut dir = Dir::new();
    dir.write("0.log", &(line(1, "a") + &line(1, "b")));
    dir.refresh();
    let part = &mut dir.stream.parts[0];
    let read_to = part.end().expect("plain");
    std::fs::write(dir.dir.path().join("0.log"), "").expect("emptied");
    part.look(read_to).expect("looked at");
    assert!(part.truncated && !part.is_open());
    let from = Position { part: part.id, offset: 10 };
    assert!(dir.refresh().unborn);
    // The listing may be older than a copy that was made of it.
    assert!(!dir.stream.scanned());
    assert!(dir.stream.release(Some(from)).is_empty());
    assert!(dir.stream.scanned());
    let lost = dir.stream.release(Some(from));
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0].end(), Some(read_to));
}

/// The order of the texts of all parts, one line each.
fn order(dir: &mut Dir) -> Vec<String> {
    let second = |text: &String| text.trim_end().rsplit(' ').next().unwrap_or_default().to_owned();
    dir.texts(0).iter().map(second).collect()
}

#[test]
fn a_runtime_whose_clock_was_set_back_does_not_upset_the_order() {
    let mut dir = Dir::new();
    dir.write("0.log", &line(30, "first"));
    dir.refresh();
    std::fs::rename(dir.path("0.log"), dir.path("0.log.20261123-010030")).expect("renamed");
    dir.write("0.log", &line(10, "second"));
    dir.refresh();
    assert_eq!(order(&mut dir), ["first", "second"]);
    std::fs::rename(dir.path("0.log"), dir.path("0.log.20261123-010010")).expect("renamed");
    dir.write("0.log.20261123-010020", &line(20, "third"));
    dir.write("0.log", &line(25, "fourth"));
    dir.refresh();
    assert_eq!(order(&mut dir), ["first", "second", "third", "fourth"]);

    // Another process, which remembers.
    let (known, listed) = (dir.stream.parts(), dir.stream.listed_ns());
    let mut next = Stream::default();
    next.remember(known.iter().map(|part| part.id), listed);
    dir.stream = next;
    std::fs::rename(dir.path("0.log"), dir.path("0.log.20261123-010025")).expect("renamed");
    dir.write("0.log", &line(5, "fifth"));
    dir.refresh();
    assert_eq!(order(&mut dir), ["first", "second", "third", "fourth", "fifth"]);
}

#[test]
fn what_comes_after_a_listing_with_gaps_stands_behind_what_that_one_told() {
    let mut dir = Dir::new();
    dir.write("0.log", &line(30, "first"));
    dir.refresh();
    std::fs::rename(dir.path("0.log"), dir.path("0.log.20261123-010030")).expect("renamed");
    // The runtime's clock was set back.
    dir.write("0.log.20261123-010010", &line(10, "second"));
    dir.write("0.log", &line(20, "third"));
    dir.write("0.log.20261123-010015", "renamed when the listing is read");
    let stale = dir.list();
    std::fs::remove_file(dir.path("0.log.20261123-010015")).expect("removed");
    assert!(dir.stream.refresh(&stale, false, LineFormat::Auto).moved);

    std::fs::rename(dir.path("0.log"), dir.path("0.log.20261123-010020")).expect("renamed");
    dir.write("0.log.20261123-010025", &line(25, "fourth"));
    dir.write("0.log", &line(27, "fifth"));
    dir.refresh();
    assert_eq!(order(&mut dir), ["first", "second", "third", "fourth", "fifth"]);
}

#[test]
fn a_file_that_was_emptied_and_is_longer_by_now_is_noticed_when_it_is_read() {
    let mut dir = Dir::new();
    dir.write("0.log", &line(1, "a"));
    dir.refresh();
    let part = &mut dir.stream.parts[0];
    let read_to = part.end().expect("plain");
    assert!(part.still_begins(read_to).expect("read"));
    let path = dir.dir.path().join("0.log");
    std::fs::write(&path, line(2, "longer than what was there before")).expect("written");
    assert!(!part.still_begins(read_to).expect("read"));
    assert!(part.truncated && !part.is_open());
}

#[test]
fn a_compressed_copy_that_has_more_takes_the_place_of_the_file_that_is_held() {
    let mut dir = Dir::new();
    dir.write("0.log", &line(1, "a"));
    dir.refresh();
    // The file is replaced by another one with the same beginning, which nobody sees before it is
    // compressed.
    std::fs::remove_file(dir.path("0.log")).expect("removed");
    dir.write("copy", &(line(1, "a") + &line(1, "b")));
    dir.gzip("copy", "0.log.20261123-010030.gz");
    dir.refresh();
    assert_eq!(dir.texts(0), [line(1, "a") + &line(1, "b")]);
}
