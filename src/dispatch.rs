//! From a request to its reply: the command's row runs, on the loop or on a worker.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::agent::Agent;
use crate::commands::{self, Body, Command, Ctx, Lane, Stop, Stream, Undo};
use crate::gate;
use crate::protocol::error::{Error, Result};
use crate::protocol::reply;
use crate::protocol::request::Request;
use crate::session::{Answer, Commands};

/// What a finished job leaves.
#[derive(Default)]
pub struct Done {
    /// The whole reply line; empty when there is none, or when it was streamed.
    pub reply: Vec<u8>,
    /// How to take back what the command made, should nobody hear of it.
    pub undo: Option<Undo>,
}

/// A part of a streamed reply.
#[derive(Debug)]
pub struct Piece {
    /// The next bytes.
    pub bytes: Vec<u8>,
    /// What completes the line should no more pieces follow; `None` in the last piece.
    pub cut: Option<Vec<u8>>,
}

impl Commands for Agent {
    fn find(&self, name: &str) -> Option<&'static Command> {
        commands::find(name)
    }

    fn check(&self, row: &Command) -> Result<()> {
        Agent::check(self, row)
    }

    fn check_for_any_state(&self, row: &Command) -> Result<()> {
        Agent::check_for_any_state(self, row)
    }

    fn answer(&self, row: &Command, request: &Request, out: &mut Vec<u8>) -> Answer {
        answer(self, row, request, out)
    }
}

/// Runs a command on the loop and appends its reply, unless it needs a worker; then nothing was
/// done.
pub fn answer(agent: &Agent, row: &Command, request: &Request, out: &mut Vec<u8>) -> Answer {
    let host = match row.lane {
        Lane::Inline | Lane::Barrier => &agent.host,
        Lane::Prompt => &agent.host_in_haste,
        Lane::Worker | Lane::Freeze => return Answer::NeedsWorker,
    };
    let cx = Ctx::new(agent, host);
    let result = caught(row, || gate::run(row, &cx, request.arguments()));
    if host.take_refused() {
        return Answer::NeedsWorker;
    }
    match result {
        Ok(Body::Json(json)) => success(row, json, request, out),
        Ok(Body::Stream(mut stream)) => {
            let mut json = Vec::new();
            while stream.next(&mut json) {}
            success(row, json, request, out);
        }
        Err(error) => reply::error(out, &error, request.id()),
    }
    Answer::Given(cx.take_undo())
}

/// Runs a command on a worker. Pieces of a long reply go to `send`, which says whether anybody
/// still wants more; the whole of a short one is returned.
pub fn work(agent: &Agent, row: &Command, request: &Request, stop: &Stop, mut send: impl FnMut(Piece) -> bool) -> Done {
    let cx = Ctx::stoppable(agent, &agent.host, stop.clone());
    let mut out = Vec::new();
    match caught(row, || gate::run(row, &cx, request.arguments())) {
        Ok(Body::Json(json)) => success(row, json, request, &mut out),
        Ok(Body::Stream(stream)) => stream_pieces(stream, request, &mut send, &mut out),
        Err(error) => reply::error(&mut out, &error, request.id()),
    }
    Done { reply: out, undo: cx.take_undo() }
}

/// Longer values are moved into place, since a copy takes fresh memory.
const MOVE: usize = 64 << 10;

fn success(row: &Command, mut json: Vec<u8>, request: &Request, out: &mut Vec<u8>) {
    if !row.replies {
        return;
    }
    if row.delimited {
        out.push(reply::DELIMITER);
    }
    if json.len() > MOVE && out.is_empty() {
        json.splice(..0, reply::RETURN.bytes());
        *out = json;
    } else {
        out.extend_from_slice(reply::RETURN.as_bytes());
        out.extend_from_slice(&json);
    }
    reply::end(out, request.id());
}

/// Sends a long reply; one that ends with its first piece is left in `out` instead.
fn stream_pieces(
    mut stream: Box<dyn Stream>,
    request: &Request,
    send: &mut impl FnMut(Piece) -> bool,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(reply::RETURN.as_bytes());
    let mut first = true;
    while stream.next(out) {
        let mut cut = Vec::new();
        stream.cut(&mut cut);
        reply::end(&mut cut, request.id());
        if !send(Piece { bytes: std::mem::take(out), cut: Some(cut) }) {
            return;
        }
        first = false;
    }
    reply::end(out, request.id());
    if !first {
        send(Piece { bytes: std::mem::take(out), cut: None });
    }
}

/// A handler that panics costs its client an error reply, and nobody anything else.
fn caught(row: &Command, run: impl FnOnce() -> Result<Body>) -> Result<Body> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        tracing::error!("{} failed on an internal error: {}", row.name, panic_text(&*panic));
        Err(Error::new(format!("{} failed on an internal error", row.name)))
    })
}

/// What a panic says.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{find, testing};
    use crate::host::Host;
    use crate::host::fake::FakeKernel;
    use crate::protocol::args;

    #[test]
    fn what_would_wait_is_answered_by_a_worker_alone() {
        // Whatever it makes of the refusal.
        const ROW: Command = Command::new("guest-waits", |cx, a| {
            cx.call(
                |cx, _: args::Empty| Ok(cx.host.read("/etc/never looked for").is_ok() || cx.host.may_wait().is_ok()),
                a,
            )
        })
        .lane(Lane::Prompt);
        let host = Host::new("/nonexistent", Box::new(FakeKernel::default()));
        let agent = testing::agent(host, testing::config());
        let request = testing::request("guest-waits", &serde_json::json!({}));
        let mut out = Vec::new();
        assert!(matches!(answer(&agent, &ROW, &request, &mut out), Answer::NeedsWorker));
        assert_eq!(out, b"");
        assert_eq!(work(&agent, &ROW, &request, &Stop::default(), |_| true).reply, b"{\"return\": true}\n");
        // Nothing of it sticks to the next one.
        const PROMPT: Command =
            Command::new("guest-prompt", |cx, a| cx.call(|_, _: args::Empty| Ok(1), a)).lane(Lane::Prompt);
        assert!(matches!(answer(&agent, &PROMPT, &request, &mut out), Answer::Given(_)));
        assert_eq!(out, b"{\"return\": 1}\n");
    }

    #[test]
    fn a_handler_that_panics_costs_an_error_reply_and_nothing_else() {
        const BROKEN: Command = Command::new("guest-broken", |_, _| panic!("a bug")).lane(Lane::Prompt);
        let host = Host::new("/nonexistent", Box::new(FakeKernel::default()));
        let agent = testing::agent(host, testing::config());
        let request = testing::request("guest-broken", &serde_json::json!({}));
        let expected =
            "{\"error\": {\"class\": \"GenericError\", \"desc\": \"guest-broken failed on an internal error\"}}\n";
        let mut inline = Vec::new();
        assert!(matches!(answer(&agent, &BROKEN, &request, &mut inline), Answer::Given(_)));
        assert_eq!(String::from_utf8_lossy(&inline), expected);
        let done = work(&agent, &BROKEN, &request, &Stop::default(), |_| true);
        assert_eq!(String::from_utf8_lossy(&done.reply), expected);
        assert!(find("guest-ping").is_some_and(|row| agent.check(row).is_ok()));
    }
}
