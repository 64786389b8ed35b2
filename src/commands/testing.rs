//! For the tests of command groups: a request in, what the client would see out.

use serde_json::Value;

use super::{Body, Ctx};
use crate::agent::Agent;
use crate::protocol::frame::{Event, Framer};
use crate::protocol::request::Request;

/// Runs a command and puts a streamed result together.
pub(crate) fn call(agent: &Agent, name: &str, arguments: Value) -> Result<Value, String> {
    let text = serde_json::json!({"execute": name, "arguments": arguments}).to_string();
    let Some(Event::Message(Ok(message))) = Framer::default().next(&mut text.as_bytes()) else {
        panic!("not a message: {text}");
    };
    let request = Request::parse(message).expect("envelope");
    let row = super::find(name).expect("a command");
    let cx = Ctx::new(agent);
    let json = match row.run(&cx, request.arguments()).map_err(|error| error.desc)? {
        Body::Json(json) => json,
        Body::Stream(mut stream) => {
            let mut json = Vec::new();
            while stream.next(&mut json) {}
            json
        }
    };
    Ok(serde_json::from_slice(&json).expect("JSON"))
}
