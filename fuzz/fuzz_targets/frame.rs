//! Bytes from the host, cut into messages: no panic, and the same events however they are split.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qemu_ga::protocol::frame::Framer;
use qemu_ga::protocol::request::Request;

/// What the events of `pieces` look like, with the envelopes of the messages.
fn events(pieces: &[&[u8]]) -> Vec<String> {
    let mut framer = Framer::default();
    let mut events = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while let Some(event) = framer.next(&mut rest) {
            events.push(match event {
                qemu_ga::protocol::frame::Event::Message(Ok(message)) => format!("{:?}", Request::parse(message)),
                other => format!("{other:?}"),
            });
        }
    }
    events
}

fuzz_target!(|data: &[u8]| {
    let Some((&first, bytes)) = data.split_first() else { return };
    let (left, right) = bytes.split_at(usize::from(first).min(bytes.len()));
    assert_eq!(events(&[bytes]), events(&[left, right]));
});
