//! What filters, forms and transports cost: each against the default pipeline, in turns with it.

use std::fs::File;
use std::io::{self, Read};

use serde_json::{Value, json};

use crate::modes::{AgentRun, Cores, PAIRS, median, median_ratio, run_agent, verdict};
use crate::setup::{AgentOptions, Logs, Shape, gib};
use crate::sink::{Behaviour, Sink};
use crate::tls;

/// What a filter that reads one field and drops nothing may cost, percent.
const READING_MAX: f64 = 15.0;

/// Which share of all lines a variant changes or drops.
#[derive(Debug, Clone, Copy)]
enum Touches {
    /// No filter: a matter of the whole pipeline.
    Unsaid,
    Share(f64),
    /// What the agent says that it dropped.
    Dropped,
}

/// One row of the table.
struct Variant<'a> {
    name: String,
    logs: &'a Logs,
    options: AgentOptions,
    touches: Touches,
    /// The most that it may cost over the default, percent.
    most: Option<f64>,
}

/// What variants of one run share.
struct Table<'a> {
    logs: &'a Logs,
    sink: String,
    rows: Vec<Variant<'a>>,
}

impl<'a> Table<'a> {
    fn row(&mut self, name: impl Into<String>, change: impl FnOnce(&mut AgentOptions)) {
        let mut options = AgentOptions::new(self.sink.clone());
        change(&mut options);
        let name = name.into();
        self.rows.push(Variant {
            name,
            logs: self.logs,
            options,
            touches: Touches::Unsaid,
            most: None,
        });
    }

    fn filter(&mut self, filter: Value, touches: Touches) {
        let json = filter.to_string().replace('"', "").replace(r"\\", r"\");
        let name = json.trim_start_matches('{').replacen(':', ": ", 1);
        let name = name.strip_suffix('}').unwrap_or(&name).to_owned();
        self.row(name, |options| options.filters = vec![filter]);
        self.last().touches = touches;
    }

    fn last(&mut self) -> &mut Variant<'a> {
        self.rows.last_mut().expect("a row was added before")
    }
}

/// Every variant and the default in turns; a variant counts by the median of its pairs.
pub(crate) fn run(shape: &Shape) -> anyhow::Result<bool> {
    let logs = shape.prepare()?;
    let many_streams = Shape { streams: 500, ..shape.clone() };
    let many = many_streams.prepare()?;
    let cores = Cores::split(1)?;
    let sink = Sink::start_with(Behaviour::Count, &cores.other, Some(&logs.folder))?;
    let secure = Sink::start(Behaviour::Tls, &cores.other)?;
    let default = AgentOptions::new(format!("http://{}", sink.address));
    let share = |text: &str| -> io::Result<Touches> {
        Ok(Touches::Share(occurrences(&logs, text)? as f64 / logs.lines as f64))
    };

    let mut table = Table { logs: &logs, sink: default.output.clone(), rows: Vec::new() };
    table.filter(json!({"drop": {"field": "log.level", "in": ["TRACE"]}}), Touches::Dropped);
    table.last().most = Some(READING_MAX);
    table.filter(
        json!({"drop": {"field": "log.level", "in": ["TRACE", "DEBUG"]}}),
        Touches::Dropped,
    );
    table.filter(
        json!({"rename": {"from": "flink-job-id", "to": "job"}}),
        share("\"flink-job-id\":")?,
    );
    table.filter(
        json!({"redact": {
            "field": "message", "pattern": "password=\\S+", "with": "password=***",
        }}),
        share("password=")?,
    );
    table.filter(json!({"add": {"environment": "production"}}), Touches::Share(1.0));
    table.row("multiline: none", |options| options.multiline = "none");
    table.row("document: ecs", |options| options.document = "ecs");
    table.row("compression: gzip", |options| options.gzip = true);
    table.row("TLS", |options| {
        options.output = format!("https://{}", secure.address);
        options.ca = Some(tls::authority());
    });
    table.row(format!("{} streams", many_streams.streams), |_| {});
    table.last().logs = &many;
    table.row("pods from the API server", |options| options.api = Some(sink.address));

    println!("variants, {:.2} GiB, {} streams:", gib(logs.bytes), shape.streams);
    println!("| variant | CPU s/GiB | vs default | lines it touches |");
    println!("|---|---:|---:|---:|");
    let (mut holds, mut defaults) = (true, Vec::new());
    for variant in &table.rows {
        let (mut pairs, mut dropped) = (Vec::new(), 0.0);
        for _ in 0..PAIRS {
            let base = run_agent(&logs, &default, &cores)?;
            let run = run_agent(variant.logs, &variant.options, &cores)?;
            pairs.push((per_gib(&base, &logs), per_gib(&run, variant.logs)));
            // Blank lines are left out without a filter too.
            let lines = run.summary.lines_filtered.saturating_sub(base.summary.lines_filtered);
            dropped = lines as f64 / run.summary.lines_read as f64;
        }
        defaults.extend(pairs.iter().map(|(base, _)| *base));
        let touched = match variant.touches {
            Touches::Unsaid => None,
            Touches::Share(share) => Some(share),
            Touches::Dropped => Some(dropped),
        };
        holds &= print_row(variant, &pairs, touched);
    }
    println!("| default | {:.2} | | |", median(defaults));
    Ok(holds)
}

fn per_gib(run: &AgentRun, logs: &Logs) -> f64 {
    run.finished.cpu.as_secs_f64() / gib(logs.bytes)
}

/// Prints a variant's row and says whether its bound holds.
fn print_row(variant: &Variant<'_>, pairs: &[(f64, f64)], touched: Option<f64>) -> bool {
    let cpu = median(pairs.iter().map(|(_, cpu)| *cpu).collect());
    let over = (median_ratio(pairs) - 1.0) * 100.0;
    let holds = variant.most.is_none_or(|most| over <= most);
    let bound = (variant.most)
        .map_or(String::new(), |most| format!(" (must <= +{most} %: {})", verdict(holds)));
    let touched = touched.map_or(String::new(), |share| format!("{:.1} %", share * 100.0));
    println!("| {} | {cpu:.2} | {over:+.1} %{bound} | {touched} |", variant.name);
    holds
}

/// How often `text` stands in the tree, but for where a block's end cuts it.
fn occurrences(logs: &Logs, text: &str) -> io::Result<usize> {
    let finder = memchr::memmem::Finder::new(text);
    let mut block = vec![0; 1 << 20];
    let mut found = 0;
    for path in logs.files()? {
        let mut file = File::open(path)?;
        loop {
            let read = file.read(&mut block)?;
            if read == 0 {
                break;
            }
            found += finder.find_iter(&block[..read]).count();
        }
    }
    Ok(found)
}
