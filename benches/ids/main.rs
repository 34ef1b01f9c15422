//! What an `_id` costs Elasticsearch: the same documents indexed with the agent's ids, with ids that
//! Elasticsearch makes, and with random ones of the agent's length, into an index and into a data
//! stream. `benches/README.md` says how to run it and what came out.
//!
//! Ways take turns, and medians are printed. Without `--bench`, which `cargo bench` passes, only the
//! documents are made and looked at; nothing listens then.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "rows are printed for people")]

mod documents;
#[expect(dead_code, reason = "here nothing is read twice")]
#[path = "../road/mod.rs"]
mod road;
mod server;

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Parser;
use documents::{Documents, Way};
use server::{Place, Run, Server};

#[derive(Debug, Parser)]
struct Arguments {
    /// Documents of a run.
    #[arg(long, default_value_t = 400_000)]
    documents: usize,
    /// Runs of each way.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// Folder of captured lines.
    #[arg(long, default_value = "tests/fixtures/ecs")]
    raw: PathBuf,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A way into a place, and what its runs came to.
struct Row {
    place: Place,
    way: Way,
    runs: Vec<Run>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if !arguments.bench {
        return check(&Documents::make(&arguments.raw, 2000)?);
    }
    let url = std::env::var("ELASTICSEARCH_URL")
        .context("ELASTICSEARCH_URL names no server: see tests/with-servers")?;
    let mut server = Server::connect(&url)?;
    let documents = Documents::make(&arguments.raw, arguments.documents)?;
    eprintln!("{} documents, {} bytes on average", documents.count, documents.average_bytes());
    // The first requests let the node compile what it runs.
    server.run(Place::Index, Way::Ours, &documents)?;
    let mut rows = Vec::new();
    for place in [Place::Index, Place::DataStream] {
        rows.extend(Way::ALL.map(|way| Row { place, way, runs: Vec::new() }));
    }
    for turn in 1..=arguments.repeat {
        for row in &mut rows {
            let run = server.run(row.place, row.way, &documents)?;
            eprintln!("{turn}: {:12}{:10}{run}", row.place, row.way);
            row.runs.push(run);
        }
    }
    println!("{:22}{}", "median of each", Run::HEAD);
    for row in &rows {
        println!("{:12}{:10}{}", row.place, row.way, Run::median(&row.runs));
    }
    Ok(())
}

/// Every way has the same documents, and the ids that it should have.
fn check(documents: &Documents) -> anyhow::Result<()> {
    let sources = |way: Way| -> Vec<String> {
        let bodies = documents.requests().enumerate();
        let bodies = bodies.map(|(number, request)| documents::body(request, way, number as u64));
        let text = bodies.map(|body| String::from_utf8(body).expect("JSON is text"));
        text.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    };
    let [ours, automatic, random] = Way::ALL.map(sources);
    ensure!(ours.len() == 2 * documents.count, "{} lines", ours.len());
    let mut ids = std::collections::BTreeSet::new();
    for (at, line) in ours.iter().enumerate() {
        if at % 2 == 1 {
            ensure!(*line == automatic[at] && *line == random[at], "other documents");
            continue;
        }
        ensure!(automatic[at] == r#"{"create":{}}"#, "{}", automatic[at]);
        ensure!(random[at].len() == line.len() && random[at] != *line, "{}", random[at]);
        ensure!(ids.insert(line) && ids.insert(&random[at]), "{line} is there twice");
    }
    println!("{} documents, three ways: ok", documents.count);
    Ok(())
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ours => "ours",
            Self::Automatic => "automatic",
            Self::Random => "random",
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Index => "index",
            Self::DataStream => "data stream",
        })
    }
}
