//! The directory of pipeline files: which files count, what each document is, and what must hold
//! for all pipelines together.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::agent::Agent;
use super::environment::Environment;
use super::operator::Operator;
use super::pipeline::Pipeline;
use super::problem::{Place, Report, quoted};
use super::setting::Setting;
use super::yaml::{self, Node};
use super::{expand, overlap, read_pipeline, text_file};

/// A pipeline that somebody wrote down, whether or not it is valid.
pub(super) struct Declared {
    pub(super) name: String,
    pub(super) place: Place,
    /// `None` when problems were recorded for it.
    pub(super) pipeline: Option<Pipeline>,
}

/// Reads every pipeline beneath `path`, which is a directory or a file.
pub(super) fn read(
    path: &Path,
    agent: &Agent,
    environment: &Environment,
    report: &Report,
) -> Vec<Pipeline> {
    let place = Place::whole(path.display().to_string());
    let files = match files(path) {
        Ok(files) => files,
        Err(message) => {
            report.error(&place, message);
            return Vec::new();
        }
    };
    let errors_before = report.errors();
    let mut documents = Vec::new();
    for file in files {
        let name: Arc<str> = file.display().to_string().into();
        match text_file::read(&file) {
            Ok(text) => documents.extend(yaml::documents(&name, &text, report)),
            Err(message) => report.error(&Place::whole(name), message),
        }
    }
    let pipelines = resolve(documents, agent, environment, report);
    if pipelines.is_empty() && report.errors() == errors_before {
        report.error(
            &place,
            "no pipeline here: expected files `*.yaml` or `*.yml`, each with at least \
             `pipeline`, `select` and `output`, or a Flow with its output",
        );
    }
    pipelines
}

/// What the files that count look like from outside: it differs when one of them has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp(Vec<(PathBuf, u64, u64, i64, i64)>);

impl Stamp {
    /// Of the files beneath `path`; what can't be looked at is left out.
    pub fn of(path: &Path) -> Self {
        let look = |file: PathBuf| {
            let metadata = std::fs::metadata(&file).ok()?;
            let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
            Some((file, metadata.ino(), metadata.len(), seconds, nanoseconds))
        };
        Self(files(path).unwrap_or_default().into_iter().filter_map(look).collect())
    }
}

/// Turns documents into pipelines and checks what holds for all of them.
fn resolve(
    documents: Vec<Node>,
    agent: &Agent,
    environment: &Environment,
    report: &Report,
) -> Vec<Pipeline> {
    let mut operator = Operator::default();
    let mut declared = Vec::new();
    for mut document in documents {
        if document.get("apiVersion").is_some() || document.get("kind").is_some() {
            operator.add(Setting::new(&document, report), agent);
        } else {
            expand::expand(&mut document, environment, report);
            let document = Setting::new(&document, report);
            declared.extend(read_pipeline::read(document, agent.memory_budget_bytes));
        }
    }
    declared.extend(operator.pipelines(agent.memory_budget_bytes, report));
    check_names(&declared, report);
    overlap::check(&declared, report);
    declared.into_iter().filter_map(|declared| declared.pipeline).collect()
}

fn check_names(declared: &[Declared], report: &Report) {
    let mut first: BTreeMap<&str, &Place> = BTreeMap::new();
    for Declared { name, place, .. } in declared {
        if let Some(other) = first.get(name.as_str()) {
            let name = quoted(name);
            report.error(place, format!("a second pipeline {name}; the first is at {other}"));
        } else {
            first.insert(name, place);
        }
    }
}

/// The files that count, by name. A ConfigMap's volume holds `..data` and the like beside its
/// links; names that begin with a dot are left out.
fn files(path: &Path) -> Result<Vec<PathBuf>, String> {
    let fault =
        |error: std::io::Error| format!("cannot read the pipelines: {}", text_file::reason(&error));
    if !std::fs::metadata(path).map_err(fault)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(fault)? {
        let file = entry.map_err(fault)?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let is_yaml = name.ends_with(".yaml") || name.ends_with(".yml");
        if is_yaml && !name.starts_with('.') && !is_directory(&file) {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a directory stands there. What can't be looked at is left to be read, which says why.
fn is_directory(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_dir())
}
