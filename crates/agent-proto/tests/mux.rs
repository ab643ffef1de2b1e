//! The multiplexer against hostile bytes and against a simple model of streams.

#![expect(clippy::unwrap_used, reason = "the model fails by panic, as the tests do")]
#![expect(clippy::cast_possible_truncation, reason = "the low byte is a pattern to compare")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use stacyvm_agent_proto::{Event, Role, Session, StreamId, Violation, mux::INITIAL_WINDOW};

fn frame(kind: u8, flags: u16, id: u32, length: u32) -> Vec<u8> {
    let mut bytes = vec![0, kind];
    bytes.extend(flags.to_be_bytes());
    bytes.extend(id.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

/// Receives everything and returns what was delivered, giving nothing back.
fn receive(session: &mut Session, mut input: &[u8]) -> Result<Vec<(StreamId, usize)>, Violation> {
    let mut data = Vec::new();
    while let Some(event) = session.receive(&mut input)? {
        if let Event::Data(id, bytes) = event {
            data.push((id, bytes.len()));
        }
    }
    Ok(data)
}

#[test]
fn each_broken_rule_is_named() {
    let cases = [
        (vec![1; 12], Violation::Version(1)),
        (frame(9, 0, 1, 0), Violation::Type(9)),
        (frame(0, 0x10, 1, 0), Violation::Flags(0x10)),
        (frame(0, 1, 0, 0), Violation::Stream(0)),
        (frame(0, 1, 2, 0), Violation::Stream(2)),
        (frame(0, 0, 7, 0), Violation::Stream(7)),
        (frame(2, 1, 7, 0), Violation::Stream(7)),
        (frame(0, 1, 1, INITIAL_WINDOW + 1), Violation::Window(1)),
        ([frame(1, 1, 1, 0), frame(1, 0, 1, u32::MAX)].concat(), Violation::Window(1)),
        ([frame(1, 5, 1, 0), frame(0, 0, 1, 1)].concat(), Violation::AfterEnd(1)),
        ([frame(1, 1, 3, 0), frame(1, 1, 1, 0)].concat(), Violation::Stream(1)),
    ];
    for (bytes, expected) in cases {
        let mut session = Session::new(Role::Server, 8);
        assert_eq!(receive(&mut session, &bytes), Err(expected));
    }
    let mut client = Session::new(Role::Client, 0);
    assert_eq!(receive(&mut client, &frame(1, 1, 2, 0)), Err(Violation::Stream(2)));
}

#[test]
fn one_stream_too_many_is_refused_and_the_others_live_on() {
    let mut server = Session::new(Role::Server, 2);
    for id in [1, 3, 5] {
        receive(&mut server, &frame(1, 1, id, 0)).unwrap();
    }
    assert_eq!(server.open_streams(), 2);
    assert_eq!(server.output(), frame(1, 8, 5, 0));
}

#[test]
fn a_peer_that_asks_without_reading_is_cut_off() {
    let mut server = Session::new(Role::Server, 2);
    let ping = frame(2, 1, 0, 42);
    let flood = std::iter::repeat_n(ping, 100_000);
    let stopped = flood.map(|ping| receive(&mut server, &ping)).find(Result::is_err);
    assert_eq!(stopped, Some(Err(Violation::Flood)));
    assert!(server.output().len() < 300_000);
}

#[test]
fn a_sender_stops_at_the_window_and_goes_on_when_it_is_given_more() {
    let mut client = Session::new(Role::Client, 0);
    let mut server = Session::new(Role::Server, 1);
    let (id, _) = client.open(b"").unwrap();
    let data = vec![7; 1 << 20];
    let mut sent = 0;
    let mut got = 0;
    loop {
        let taken = client.send(id, &data[sent..]).unwrap();
        if taken == 0 && client.output().is_empty() {
            break;
        }
        sent += taken;
        let output = client.output().to_vec();
        client.written(output.len());
        got += receive(&mut server, &output).unwrap().iter().map(|(_, n)| n).sum::<usize>();
    }
    assert_eq!((sent, got), (INITIAL_WINDOW as usize, INITIAL_WINDOW as usize));
    server.consumed(id, got);
    let output = server.output().to_vec();
    assert!(receive(&mut client, &output).is_ok());
    assert!(0 < client.send(id, &data).unwrap());
}

#[derive(Debug, Clone)]
enum Step {
    Open,
    Send { pick: usize, length: usize },
    Finish { pick: usize },
    Deliver { to_server: bool, most: usize },
    Consume { pick: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Open),
        6 => (any::<usize>(), 0_usize..100_000).prop_map(|(pick, length)| Step::Send { pick, length }),
        1 => any::<usize>().prop_map(|pick| Step::Finish { pick }),
        8 => (any::<bool>(), 1_usize..70_000)
            .prop_map(|(to_server, most)| Step::Deliver { to_server, most }),
        4 => any::<usize>().prop_map(|pick| Step::Consume { pick }),
    ]
}

#[derive(Default)]
struct Model {
    sent: Vec<u8>,
    received: Vec<u8>,
    unconsumed: usize,
    finished: bool,
    ended: bool,
}

struct Pair {
    client: Session,
    server: Session,
    streams: BTreeMap<StreamId, Model>,
}

impl Pair {
    fn pick(&self, pick: usize) -> Option<StreamId> {
        self.streams.keys().nth(pick % self.streams.len().max(1)).copied()
    }

    fn deliver(&mut self, to_server: bool, most: usize) {
        let (from, to) = if to_server {
            (&mut self.client, &mut self.server)
        } else {
            (&mut self.server, &mut self.client)
        };
        let bytes = from.output()[..most.min(from.output().len())].to_vec();
        from.written(bytes.len());
        let mut input = &bytes[..];
        while let Some(event) = to.receive(&mut input).unwrap() {
            match event {
                Event::Data(id, data) => {
                    let model = self.streams.get_mut(&id).unwrap();
                    assert!(!model.ended);
                    model.received.extend_from_slice(data);
                    model.unconsumed += data.len();
                    assert!(model.unconsumed <= INITIAL_WINDOW as usize);
                }
                Event::Ended(id) => self.streams.get_mut(&id).unwrap().ended = true,
                Event::Opened(_) | Event::Writable(_) => {}
                Event::Reset(_) | Event::GoAway(_) => panic!("{event:?}"),
            }
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Open => {
                if let Some((id, _)) = self.client.open(b"") {
                    self.streams.insert(id, Model::default());
                }
            }
            Step::Send { pick, length } => {
                let Some(id) = self.pick(pick) else { return };
                let model = self.streams.get_mut(&id).unwrap();
                let data: Vec<u8> = (0..length).map(|n| (n + model.sent.len()) as u8).collect();
                match self.client.send(id, &data) {
                    Ok(taken) => model.sent.extend_from_slice(&data[..taken]),
                    Err(_) => assert!(model.finished),
                }
            }
            Step::Finish { pick } => {
                let Some(id) = self.pick(pick) else { return };
                self.client.finish(id);
                self.streams.get_mut(&id).unwrap().finished = true;
            }
            Step::Deliver { to_server, most } => self.deliver(to_server, most),
            Step::Consume { pick } => {
                let Some(id) = self.pick(pick) else { return };
                let model = self.streams.get_mut(&id).unwrap();
                self.server.consumed(id, std::mem::take(&mut model.unconsumed));
            }
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_keep_too_much(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..40),
        client in any::<bool>(),
    ) {
        let role = if client { Role::Client } else { Role::Server };
        let mut session = Session::new(role, 4);
        session.open(b"");
        for chunk in chunks {
            if receive(&mut session, &chunk).is_err() {
                break;
            }
            prop_assert!(session.open_streams() <= 5);
        }
    }

    #[test]
    fn frames_that_are_almost_right_do_not_either(
        frames in prop::collection::vec((0_u8..5, 0_u16..17, 0_u32..8, 0_u32..300_000), 0..40),
        cut in 1_usize..50,
    ) {
        let bytes: Vec<u8> = frames
            .into_iter()
            .flat_map(|(kind, flags, id, length)| {
                let body = if kind == 0 { length.min(500) as usize } else { 0 };
                [frame(kind, flags, id, length), vec![0; body]].concat()
            })
            .collect();
        let mut session = Session::new(Role::Server, 2);
        for chunk in bytes.chunks(cut) {
            if receive(&mut session, chunk).is_err() {
                break;
            }
            prop_assert!(session.open_streams() <= 2);
        }
    }

    #[test]
    fn every_stream_delivers_its_bytes_in_order(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut pair = Pair {
            client: Session::new(Role::Client, 0),
            server: Session::new(Role::Server, 1000),
            streams: BTreeMap::new(),
        };
        for step in &steps {
            pair.apply(step);
        }
        while !pair.client.output().is_empty() || !pair.server.output().is_empty() {
            pair.deliver(true, usize::MAX);
            pair.deliver(false, usize::MAX);
        }
        for model in pair.streams.values() {
            prop_assert!(model.sent == model.received);
            prop_assert_eq!(model.finished, model.ended);
        }
    }
}
