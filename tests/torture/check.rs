//! Whether the judge sees what is wrong: a peer that loses a document, doubles one and invents one.

use std::time::Duration;

use crate::agent::Agent;
use crate::container::Pace;
use crate::dice::Dice;
use crate::ground::Ground;
use crate::judge::Judgement;
use crate::peer::Peer;
use crate::peer::index::Index;
use crate::report::Report;
use crate::source::Source;
use crate::writers;

/// Whether it does.
pub(crate) fn run(seed: u64, source: &Source) -> anyhow::Result<bool> {
    let peer = Peer::start(seed, Index::sabotaged())?;
    peer.be_calm();
    let ground = Ground::create(2, peer.address)?;
    let mut all = writers::containers(&ground, seed, Pace { low: 1000, high: 1000 })?;
    for one in &mut all {
        for _ in 0..100 {
            one.container.print(source)?;
        }
        one.container.restart(&ground.logs(one.number), source)?;
    }
    ground.configure(&mut Dice::new(seed, 0x22))?;
    Agent::run_once(&ground, Duration::from_secs(60))?;
    let judgement = Judgement::of(&peer.index(), &writers::done(&all), &ground);
    let mut report = Report::new("the judge, with a document lost, one doubled and one invented");
    for (name, found) in [
        ("lost", judgement.lost),
        ("doubled", judgement.doubled),
        ("never written", judgement.foreign),
    ] {
        report.row(name, found);
        // a document of several lines counts as many
        report.must(found > 0, || format!("the judge has not noticed: {name}"));
    }
    Ok(report.print())
}
