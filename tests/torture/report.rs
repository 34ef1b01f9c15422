//! What a part of the run came to, as a table for people.

use crate::judge::Judgement;

/// A table that says at its end whether all is well.
#[derive(Debug)]
pub(crate) struct Report {
    title: String,
    rows: Vec<(String, String)>,
    violations: Vec<String>,
}

impl Report {
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), rows: Vec::new(), violations: Vec::new() }
    }

    pub(crate) fn row(&mut self, name: impl Into<String>, value: impl ToString) {
        self.rows.push((name.into(), value.to_string()));
    }

    /// Notes what is wrong unless `holds`.
    pub(crate) fn must(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(otherwise());
        }
    }

    pub(crate) fn judgement(&mut self, judgement: Judgement) {
        self.row("lines written", judgement.written);
        self.row("lost", judgement.lost);
        self.row("doubled", judgement.doubled);
        self.row("never written", judgement.foreign);
        self.row("out of order", judgement.disordered);
        self.row("documents that are wrong", judgement.wrong);
        let good = judgement.is_good();
        self.violations.extend(judgement.offenders);
        self.must(good, || {
            "the lines that were written are not the lines that are there".to_owned()
        });
    }

    /// Prints it; whether all is well.
    #[expect(clippy::print_stdout, reason = "the table is for people")]
    pub(crate) fn print(&self) -> bool {
        println!("\n{}", self.title);
        for (name, value) in &self.rows {
            println!("  {name:<36} {value:>14}");
        }
        for violation in &self.violations {
            println!("  WRONG: {violation}");
        }
        self.violations.is_empty()
    }
}

pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
