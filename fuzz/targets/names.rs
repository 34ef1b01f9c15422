//! Names of files and directories, and times: what is understood is written again as it was meant.

#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use splashdam::discover::StreamName;
use splashdam::discover::path::{container_directory, docker_part, part, pod_directory};
use splashdam::parse::time;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let name = OsStr::from_bytes(bytes);
    pod_directory(name);
    container_directory(name);
    part(name);
    docker_part(OsStr::new("0.log"), name);
    if let Some(stream) = std::str::from_utf8(bytes).ok().and_then(StreamName::parse) {
        assert_eq!(StreamName::parse(&stream.to_string()), Some(stream));
    }
    time::runtime_prefix(bytes, &mut time::LastSecond::default());
    time::parse_number(bytes);
    if let Some(ns) = time::parse(bytes) {
        let mut text = Vec::new();
        time::write_utc(ns, &mut text);
        assert_eq!(time::parse(&text), Some(ns));
    }
});
