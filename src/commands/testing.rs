//! For the tests of command groups: a request in, what the client would see out.

use serde_json::Value;

use super::{Body, Ctx};
use crate::agent::Agent;
use crate::config::Config;
use crate::gate;
use crate::host::Host;
use crate::log::LogControl;
use crate::protocol::frame::{Event, Framer};
use crate::protocol::request::Request;
use crate::state::State;

/// The settings of an agent that was told nothing.
pub(crate) fn config() -> Config {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let words = ["qemu-ga".into(), "--config".into(), file.path().into()];
    Config::load(&crate::cli::parse(words, false).args).expect("an empty file")
}

/// An agent on this machine. Its log goes nowhere.
pub(crate) fn agent(host: Host, config: Config) -> Agent {
    let state = tempfile::tempdir().expect("a directory");
    Agent::new(host, config, State::open(state.path()).expect("a state"), LogControl::detached())
}

/// A request as it comes from a client.
pub(crate) fn request(name: &str, arguments: &Value) -> Request {
    let text = serde_json::json!({"execute": name, "arguments": arguments}).to_string();
    let Some(Event::Message(Ok(message))) = Framer::default().next(&mut text.as_bytes()) else {
        panic!("not a message: {text}");
    };
    Request::parse(message).expect("envelope")
}

/// Runs a command and puts a streamed result together.
pub(crate) fn call(agent: &Agent, name: &str, arguments: Value) -> std::result::Result<Value, String> {
    let request = request(name, &arguments);
    let row = super::find(name).expect("a command");
    let cx = Ctx::new(agent, &agent.host);
    let json = match gate::run(row, &cx, request.arguments()).map_err(|error| error.desc)? {
        Body::Json(json) => json,
        Body::Stream(mut stream) => {
            let mut json = Vec::new();
            while stream.next(&mut json) {}
            json
        }
    };
    Ok(serde_json::from_slice(&json).expect("JSON"))
}
