//! Messages: what goes in comes out, however it is cut, and nonsense is an error.

use proptest::prelude::*;
use stacyvm_agent_proto::{Bytes, Decoder, Input, MAX_MESSAGE, Malformed, Reply, Request, encode};

#[test]
fn the_encoding_of_version_1_stays_as_it_is() {
    let mut bytes = Vec::new();
    encode(&Request::Attach { id: "ex", offset: 300 }, &mut bytes);
    assert_eq!(bytes, [6, 0, 0, 0, 2, 2, b'e', b'x', 0xac, 2]);
    bytes.clear();
    encode(&Request::Logs { lines: 1 }, &mut bytes);
    assert_eq!(bytes, [2, 0, 0, 0, 13, 1]);
    bytes.clear();
    encode(&Reply::Output { offset: 1, stderr: true, data: Bytes(b"hi") }, &mut bytes);
    assert_eq!(bytes, [6, 0, 0, 0, 3, 1, 1, 2, b'h', b'i']);
    bytes.clear();
    encode(&Input::Resize { rows: 1, cols: 2 }, &mut bytes);
    assert_eq!(bytes, [3, 0, 0, 0, 3, 1, 2]);
}

#[test]
fn a_message_that_is_too_long_is_refused_before_it_arrives() {
    let mut decoder = Decoder::default();
    decoder.push(&u32::try_from(MAX_MESSAGE + 1).unwrap().to_le_bytes());
    assert_eq!(decoder.next::<Request<'_>>(), Err(Malformed));
}

proptest! {
    #[test]
    fn messages_survive_any_cutting(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..10),
        cut in 1_usize..50,
    ) {
        let mut bytes = Vec::new();
        for body in &bodies {
            encode(&Input::Data(Bytes(body)), &mut bytes);
        }
        let mut decoder = Decoder::default();
        let mut found = Vec::new();
        for chunk in bytes.chunks(cut) {
            decoder.push(chunk);
            while let Some(Input::Data(data)) = decoder.next::<Input<'_>>().unwrap() {
                found.push(data.0.to_vec());
            }
        }
        prop_assert_eq!(found, bodies);
        prop_assert!(decoder.is_empty());
    }

    #[test]
    fn nonsense_is_an_error_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = stacyvm_agent_proto::decode::<Request<'_>>(&bytes);
        let _ = stacyvm_agent_proto::decode::<Reply<'_>>(&bytes);
        let _ = stacyvm_agent_proto::decode::<Input<'_>>(&bytes);
    }
}
