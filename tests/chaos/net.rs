//! Where the processes of a cluster live: each in a network namespace of its own, or all on
//! loopback.
//!
//! The test itself is in a network namespace of its own, so the bridge, the pairs and whatever a
//! fault changes are nobody else's and end with it. The namespaces of the members have no name:
//! each is held by a sleeping process that the kernel ends when this one ends.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

const BRIDGE: &str = "hub0";
const PORT: u16 = 7423;
/// A station that does not exist: what is sent to it is lost without a word.
const NOBODY: &str = "02:00:00:00:00:fe";

/// The parts of the hub, where clients, the proxy and Postgres are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Hub {
    Clients,
    Postgres,
    Proxy,
}

/// The place of one member.
pub(crate) struct Place {
    pub(crate) at: SocketAddr,
    /// Its link at the bridge, and who holds its namespace.
    link: Option<(String, Child)>,
}

/// What connects everybody.
pub(crate) struct Net {
    apart: bool,
    places: u8,
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", said.trim());
    Ok(())
}

fn ip(arguments: &[&str]) -> Result<()> {
    run(Command::new("ip").args(arguments))
}

impl Net {
    /// Everybody on loopback.
    pub(crate) fn loopback() -> Self {
        Self { apart: false, places: 0 }
    }

    /// A bridge in this process's namespace.
    pub(crate) fn bridge() -> Result<Self> {
        ip(&["link", "add", BRIDGE, "type", "bridge", "stp_state", "0"])?;
        for part in [Hub::Clients, Hub::Postgres, Hub::Proxy] {
            let net = Self { apart: true, places: 0 };
            ip(&["addr", "add", &format!("{}/24", net.hub(part)), "dev", BRIDGE])?;
        }
        ip(&["link", "set", BRIDGE, "up"])?;
        Ok(Self { apart: true, places: 0 })
    }

    /// Whether members can be cut off from each other.
    pub(crate) const fn is_apart(&self) -> bool {
        self.apart
    }

    /// Where a part of the hub is.
    pub(crate) fn hub(&self, part: Hub) -> IpAddr {
        let last = match part {
            Hub::Clients => 1,
            Hub::Postgres => 2,
            Hub::Proxy => 3,
        };
        if self.apart { Ipv4Addr::new(10, 77, 0, last).into() } else { Ipv4Addr::LOCALHOST.into() }
    }

    /// Makes a place for one more member. Blocking; the caller's thread has to outlive it.
    pub(crate) fn place(&mut self) -> Result<Place> {
        self.places += 1;
        if !self.apart {
            let at = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
            return Ok(Place { at, link: None });
        }
        let number = self.places;
        let address = Ipv4Addr::new(10, 77, 0, 10 + number);
        let holder = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()?;
        let link = format!("m{number}");
        let place = Place { at: (address, PORT).into(), link: Some((link.clone(), holder)) };
        place.wait_until_apart()?;
        ip(&["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &place.pid()])?;
        ip(&["link", "set", &link, "master", BRIDGE, "up"])?;
        place.ip(&["link", "set", "lo", "up"])?;
        place.ip(&["addr", "add", &format!("{address}/24"), "dev", "eth0"])?;
        place.ip(&["link", "set", "eth0", "up"])?;
        Ok(place)
    }
}

impl Place {
    fn pid(&self) -> String {
        self.link.as_ref().map(|(_, holder)| holder.id().to_string()).unwrap_or_default()
    }

    /// Waits until the holder has left this process's namespace.
    fn wait_until_apart(&self) -> Result<()> {
        let own = std::fs::read_link("/proc/self/ns/net")?;
        let give_up = Instant::now() + Duration::from_secs(10);
        loop {
            let its = std::fs::read_link(format!("/proc/{}/ns/net", self.pid()));
            if its.is_ok_and(|its| its != own) {
                return Ok(());
            }
            if give_up < Instant::now() {
                bail!("a namespace was not made");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// A program that runs at this place and ends with the thread that starts it.
    pub(crate) fn program(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if self.link.is_some() {
            command.arg("nsenter").arg(format!("--net=/proc/{}/ns/net", self.pid()));
        }
        command.arg(program).stdin(Stdio::null());
        command
    }

    fn ip(&self, arguments: &[&str]) -> Result<()> {
        run(self.program(std::path::Path::new("ip")).args(arguments))
    }

    /// Plugs its link in or out.
    pub(crate) fn plug(&self, on: bool) -> Result<()> {
        let Some((link, _)) = &self.link else { bail!("on loopback nobody is cut off") };
        ip(&["link", "set", link, if on { "up" } else { "down" }])
    }

    /// Loses all that this place sends to another, or stops to.
    pub(crate) fn lose(&self, to: IpAddr, on: bool) -> Result<()> {
        let to = to.to_string();
        match on {
            true => self.ip(&[
                "neigh",
                "replace",
                &to,
                "lladdr",
                NOBODY,
                "dev",
                "eth0",
                "nud",
                "permanent",
            ]),
            false => self.ip(&["neigh", "del", &to, "dev", "eth0"]),
        }
    }

    /// Delays and loses a part of what this place sends, or stops to. Fails where the kernel has no
    /// `netem`.
    pub(crate) fn lag(&self, on: bool) -> Result<()> {
        let mut tc = self.program(std::path::Path::new("tc"));
        tc.args(["qdisc", if on { "add" } else { "del" }, "dev", "eth0", "root"]);
        if on {
            tc.args(["netem", "delay", "80ms", "60ms", "loss", "5%"]);
        }
        run(&mut tc)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((_, holder)) = &mut self.link {
            let _ended = holder.kill();
            let _reaped = holder.wait();
        }
    }
}
