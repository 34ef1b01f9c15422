//! The command line: what can be asked for, and how it ends.
//!
//! Exit codes: 0 fine, 1 failed while running, 2 wrong usage or configuration. Results go to
//! stdout, everything else to stderr.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::agent::{self, Mode};
use crate::config::{self, Environment, Loaded};
use crate::{dead_letter, demo, explain};

/// Ships the logs of Apache Flink on Kubernetes to Elasticsearch: nothing lost, nothing twice.
#[derive(Debug, Parser)]
#[command(version, about, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the agent.
    Run {
        #[command(flatten)]
        files: Files,
        /// Read all there is to its end, ship it, wait for every acknowledgement, print a one-line
        /// JSON summary, and end.
        #[arg(long)]
        once: bool,
        /// How long --once may take.
        #[arg(long, requires = "once", default_value = "5m", value_parser = duration)]
        deadline: Duration,
    },
    /// Shows the agent at work on real Flink lines; needs no cluster and no Elasticsearch.
    Demo,
    /// Checks the configuration and all pipelines without touching an output.
    Validate {
        #[command(flatten)]
        files: Files,
    },
    /// Says for the lines of a log file which pipeline takes them and why, and shows the documents.
    Explain {
        #[command(flatten)]
        files: Files,
        /// Log files as the kubelet keeps them, plain or compressed.
        #[arg(required = true, value_name = "FILE")]
        logs: Vec<PathBuf>,
        /// The pod that wrote them, where the path does not say it.
        #[arg(long, value_name = "NAMESPACE/NAME")]
        pod: Option<String>,
    },
    /// The documents that an output refused in every form, as they are kept on this node.
    DeadLetter {
        #[command(subcommand)]
        command: DeadLetterCommand,
    },
}

#[derive(Debug, Subcommand)]
enum DeadLetterCommand {
    /// Shows them, without asking an output.
    List {
        #[command(flatten)]
        files: Files,
        /// Those of one pipeline only.
        #[arg(long, value_name = "NAME")]
        pipeline: Option<String>,
        /// Whole, as they are kept: one JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Sends them again, under the same ids, and removes what has become safe.
    Replay {
        #[command(flatten)]
        files: Files,
        /// Those of one pipeline only.
        #[arg(long, value_name = "NAME")]
        pipeline: Option<String>,
        /// How long it may take; what isn't safe by then stays.
        #[arg(long, default_value = "5m", value_parser = duration)]
        deadline: Duration,
    },
}

#[derive(Debug, Args)]
struct Files {
    /// The agent's settings [default: /etc/splashdam/agent.yaml, where it exists].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The directory of pipeline files, instead of the setting `pipelines`.
    #[arg(long, value_name = "DIR")]
    pipelines: Option<PathBuf>,
}

/// Why a command failed.
enum Failure {
    /// It was asked for something that can't be.
    Usage(String),
    Running(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Running(error)
    }
}

/// Runs the program with the process's own arguments.
pub fn main() -> ExitCode {
    // Wrong usage is said by clap itself, which ends with 2.
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Run { files, once, deadline } => {
            run(&files, if once { Mode::Once { deadline } } else { Mode::Follow })
        }
        Command::Demo => demo::run().map_err(Failure::from),
        Command::Validate { files } => validate(&files),
        Command::Explain { files, logs, pod } => explain_files(&files, &logs, pod.as_deref()),
        Command::DeadLetter { command } => dead_letters(&command),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Failure::Usage(text)) => {
            complain(&text);
            ExitCode::from(2)
        }
        Err(Failure::Running(error)) => {
            complain(&format!("splashdam: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

fn load(files: &Files) -> Result<Loaded, Failure> {
    let config = files.config.as_deref();
    let pipelines = files.pipelines.as_deref();
    config::load(config, pipelines, &Environment::of_process())
        .map_err(|problems| Failure::Usage(format!("{problems}\n")))
}

fn run(files: &Files, mode: Mode) -> Result<bool, Failure> {
    let loaded = load(files)?;
    let (config, pipelines) = (files.config.clone(), files.pipelines.clone());
    let again =
        move || config::load(config.as_deref(), pipelines.as_deref(), &Environment::of_process());
    let ended = agent::run(loaded, mode, Box::new(again))?;
    if let Some(summary) = &ended.summary {
        say(summary)?;
    }
    Ok(ended.safe)
}

fn validate(files: &Files) -> Result<bool, Failure> {
    let loaded = load(files)?;
    for warning in &loaded.warnings {
        complain(&format!("warning: {warning}\n"));
    }
    for pipeline in &loaded.pipelines {
        say(&format!("{}: fine", pipeline.name))?;
    }
    Ok(true)
}

fn explain_files(files: &Files, logs: &[PathBuf], pod: Option<&str>) -> Result<bool, Failure> {
    let loaded = load(files)?;
    let pod = pod.map(|pod| pod.split_once('/').ok_or_else(|| not_a_pod(pod))).transpose()?;
    let logs: Vec<&Path> = logs.iter().map(PathBuf::as_path).collect();
    let mut out = io::BufWriter::new(io::stdout().lock());
    explain::explain(&loaded, &logs, pod, &mut out)?;
    out.flush().map_err(anyhow::Error::from)?;
    Ok(true)
}

fn dead_letters(command: &DeadLetterCommand) -> Result<bool, Failure> {
    let (DeadLetterCommand::List { files, pipeline, .. }
    | DeadLetterCommand::Replay { files, pipeline, .. }) = command;
    let loaded = load(files)?;
    let mut complain = |text: &str| complain(&format!("{text}\n"));
    let pipeline = pipeline.as_deref();
    let request = dead_letter::Request { loaded: &loaded, pipeline, complain: &mut complain };
    if !request.is_known()? {
        return Err(Failure::Usage(
            "--pipeline: no pipeline of that name is configured, and none has dead letters\n"
                .to_owned(),
        ));
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    let result = match command {
        DeadLetterCommand::List { json, .. } => dead_letter::list(request, *json, &mut out)?,
        DeadLetterCommand::Replay { deadline, .. } => {
            dead_letter::resend(request, *deadline, &mut out)?
        }
    };
    out.flush().map_err(anyhow::Error::from)?;
    Ok(result)
}

fn duration(text: &str) -> Result<Duration, String> {
    config::units::parse_duration(text)
        .ok_or_else(|| "expected a duration such as 30s, 5m or 1h".to_owned())
}

fn not_a_pod(text: &str) -> Failure {
    Failure::Usage(format!(
        "--pod {text:?} is not NAMESPACE/NAME, for example flink/orders-taskmanager-1-1\n"
    ))
}

/// A result, on stdout.
fn say(text: &str) -> anyhow::Result<()> {
    writeln!(io::stdout().lock(), "{text}")?;
    Ok(())
}

/// A complaint, on stderr; a closed one changes nothing.
fn complain(text: &str) {
    drop(io::stderr().lock().write_all(text.as_bytes()));
}
