//! What goes wrong and when, from a seed.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    os::unix::process::ExitStatusExt,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::process::Signal;
use stacyvm_postgres_fixture::Stop;

use crate::{
    chance::Chance,
    cluster::{Cluster, SERVERS, WORKERS},
    member::Kind,
    net::Hub,
    truth::Watch,
};

/// One thing that goes wrong for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Killed, and started again at the end.
    Killed(usize),
    /// Asked to stop, and started again at the end.
    Stopped(usize),
    Frozen(usize),
    /// Its link is out.
    Unplugged(usize),
    /// What it sends to one address is lost.
    Cut(usize, To),
    /// Delay and loss.
    Lagging(usize),
    /// Postgres is stopped, and started again at the end.
    Postgres(Stop),
}

/// Whom a member does not reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Postgres,
    Proxy,
    Member(usize),
}

impl Fault {
    /// What nothing else may happen to meanwhile; Postgres is one more than the last member.
    const fn target(self) -> usize {
        match self {
            Self::Killed(n)
            | Self::Stopped(n)
            | Self::Frozen(n)
            | Self::Unplugged(n)
            | Self::Cut(n, _)
            | Self::Lagging(n) => n,
            Self::Postgres(_) => SERVERS + WORKERS,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Killed(n) if n < SERVERS => "fault: server killed",
            Self::Killed(_) => "fault: worker killed",
            Self::Stopped(n) if n < SERVERS => "fault: server stopped",
            Self::Stopped(_) => "fault: worker stopped",
            Self::Frozen(n) if n < SERVERS => "fault: server frozen",
            Self::Frozen(_) => "fault: worker frozen",
            Self::Unplugged(_) => "fault: link out",
            Self::Cut(_, To::Postgres) => "fault: server cut off from Postgres",
            Self::Cut(_, To::Proxy) => "fault: worker not heard",
            Self::Cut(_, To::Member(_)) => "fault: worker and one server cut off",
            Self::Lagging(_) => "fault: delay and loss",
            Self::Postgres(Stop::Fast) => "fault: Postgres stopped",
            Self::Postgres(Stop::Immediate) => "fault: Postgres killed",
        }
    }
}

/// What can go wrong here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Means {
    /// Members can be cut off.
    pub(crate) apart: bool,
    /// The kernel delays and loses.
    pub(crate) netem: bool,
}

fn choose(chance: &mut Chance, means: Means) -> (Fault, Duration) {
    let server = |chance: &mut Chance| chance.index(SERVERS);
    let worker = |chance: &mut Chance| SERVERS + chance.index(WORKERS);
    loop {
        // A lease is 900 ms: times on both sides of it.
        let (short, long) = (chance.millis(50, 800), chance.millis(1_200, 4_000));
        let time = if chance.below(2) == 0 { short } else { long };
        let fault = match chance.below(15) {
            0 => Fault::Killed(server(chance)),
            1 | 2 => Fault::Killed(worker(chance)),
            3 if chance.below(2) == 0 => Fault::Stopped(server(chance)),
            3 => Fault::Stopped(worker(chance)),
            4 => Fault::Frozen(server(chance)),
            5 | 6 => Fault::Frozen(worker(chance)),
            7 if chance.below(2) == 0 => Fault::Postgres(Stop::Fast),
            7 => Fault::Postgres(Stop::Immediate),
            8 => Fault::Unplugged(server(chance)),
            9 => Fault::Unplugged(worker(chance)),
            10 => Fault::Cut(server(chance), To::Postgres),
            11 => Fault::Cut(worker(chance), To::Proxy),
            12 => {
                let from = worker(chance);
                Fault::Cut(from, To::Member(server(chance)))
            }
            13 => {
                let from = server(chance);
                Fault::Cut(from, To::Member(worker(chance)))
            }
            _ => Fault::Lagging(chance.index(SERVERS + WORKERS)),
        };
        let possible = match fault {
            Fault::Unplugged(_) | Fault::Cut(..) => means.apart,
            Fault::Lagging(_) => means.netem,
            _ => true,
        };
        if possible {
            let time = if let Fault::Postgres(_) = fault {
                time.min(chance.millis(50, 1_500))
            } else {
                time
            };
            return (fault, time);
        }
    }
}

/// Makes things go wrong for as long as this, and leaves nothing wrong.
pub(crate) fn run(
    cluster: &mut Cluster,
    watch: &Watch,
    seed: u64,
    means: Means,
    lasts: Duration,
) -> Result<()> {
    let mut chance = Chance::of(seed);
    let end = Instant::now() + lasts;
    let mut going: Vec<(Instant, Fault)> = Vec::new();
    let mut next = Instant::now() + Duration::from_secs(1);
    loop {
        let now = Instant::now();
        while let Some(index) = going.iter().position(|(until, _)| *until <= now || end <= now) {
            let (_, fault) = going.remove(index);
            set_right(cluster, watch, fault)?;
        }
        if end <= now {
            break;
        }
        if next <= now {
            let (fault, time) = choose(&mut chance, means);
            let busy: BTreeSet<usize> = going.iter().map(|(_, fault)| fault.target()).collect();
            next = now + chance.millis(50, 900);
            if !busy.contains(&fault.target()) {
                watch.history.note(&format!("{fault:?} for {} ms", time.as_millis()));
                watch.history.count(fault.word());
                go_wrong(cluster, watch, fault)?;
                going.push((Instant::now() + time, fault));
            }
        }
        // A server that lost its store at its start ends, and is started again by its supervisor.
        for member in &mut cluster.members {
            if let Some(status) = member.ended()? {
                thread::sleep(Duration::from_millis(100));
                watch.history.note(&format!("{} ended by itself: {status}", member.name));
                watch.history.count(&format!("{:?} ended by itself", member.kind));
                if status.code() != Some(1) || member.kind == Kind::Worker {
                    watch.history.violated(format!("{} ended with {status}", member.name));
                }
                member.start()?;
            }
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn address(cluster: &Cluster, to: To) -> Result<IpAddr> {
    Ok(match to {
        To::Postgres => cluster.net.hub(Hub::Postgres),
        To::Proxy => cluster.net.hub(Hub::Proxy),
        To::Member(n) => cluster.members.get(n).context("a member")?.place.at.ip(),
    })
}

fn go_wrong(cluster: &mut Cluster, watch: &Watch, fault: Fault) -> Result<()> {
    if let Fault::Postgres(how) = fault {
        if let Err(error) = watch.postgres.stop(how) {
            // A backend may be stuck sending to a frozen server: then it was killed all the same.
            watch.history.note(&format!("Postgres was killed: {error:#}"));
            watch.history.count("fault: Postgres did not stop within 30 s and was killed");
        }
        return Ok(());
    }
    if let Fault::Cut(n, to) = fault {
        let to = address(cluster, to)?;
        return cluster.members.get(n).context("a member")?.place.lose(to, true);
    }
    let member = cluster.members.get_mut(fault.target()).context("a member")?;
    match fault {
        Fault::Killed(_) => {
            member.kill()?;
            if member.kind == Kind::Worker {
                watch.died(&member.name);
            }
            Ok(())
        }
        Fault::Stopped(_) => {
            // One that was just starting may not have known yet that it can be asked, or may have
            // been about to give up on its store.
            let status = member.stop()?;
            let starting = status.signal() == Some(Signal::TERM.as_raw());
            if !status.success() && !starting && status.code() != Some(1) {
                watch.history.violated(format!("{} stopped with {status}", member.name));
            }
            Ok(())
        }
        Fault::Frozen(_) => member.freeze(),
        Fault::Unplugged(_) => member.place.plug(false),
        Fault::Lagging(_) => member.place.lag(true),
        Fault::Cut(..) | Fault::Postgres(_) => Ok(()),
    }
}

fn set_right(cluster: &mut Cluster, watch: &Watch, fault: Fault) -> Result<()> {
    watch.history.note(&format!("{fault:?} is over"));
    if let Fault::Postgres(_) = fault {
        watch.postgres.run()?;
        watch.history.await_success();
        return Ok(());
    }
    if let Fault::Cut(n, to) = fault {
        let to = address(cluster, to)?;
        return cluster.members.get(n).context("a member")?.place.lose(to, false);
    }
    let member = cluster.members.get_mut(fault.target()).context("a member")?;
    match fault {
        Fault::Killed(_) | Fault::Stopped(_) => {
            watch.returned(&member.name);
            member.start()
        }
        Fault::Frozen(_) => member.thaw(),
        Fault::Unplugged(_) => member.place.plug(true),
        Fault::Lagging(_) => member.place.lag(false),
        Fault::Cut(..) | Fault::Postgres(_) => Ok(()),
    }
}
