use serde::Deserialize;

use super::super::frame::{Event, Framer};
use super::super::request::Request;
use super::*;

fn parsed<T: for<'a> Deserialize<'a> + std::fmt::Debug>(arguments: &str) -> Result<T, String> {
    let text = format!("{{\"execute\":\"x\",\"arguments\":{arguments}}}");
    let Some(Event::Message(Ok(message))) = Framer::default().next(&mut text.as_bytes()) else {
        panic!("not a message: {text}");
    };
    let request = Request::parse(message).expect("envelope");
    parse(request.arguments()).map_err(|error| error.desc)
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
struct Sample {
    handle: i64,
    logical_id: Option<bool>,
    list: Option<Vec<Inner>>,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Inner {
    id: i64,
}

fn fault(arguments: &str) -> String {
    parsed::<Sample>(arguments).expect_err("a fault")
}

#[test]
fn fields_are_checked_in_the_order_of_the_definition() {
    assert_eq!(fault(r#"{"logical-id":"x"}"#), "Parameter 'handle' is missing");
    assert_eq!(
        fault(r#"{"list":1,"logical-id":"x","handle":2}"#),
        "Invalid parameter type for 'logical-id', expected: boolean"
    );
}

#[test]
fn unexpected_members_come_last() {
    assert_eq!(fault(r#"{"zz":1,"handle":1}"#), "Parameter 'zz' is unexpected");
    assert_eq!(fault(r#"{"zz":1}"#), "Parameter 'handle' is missing");
    assert_eq!(parsed::<Empty>(r#"{"zz":null}"#).expect_err("fault"), "Parameter 'zz' is unexpected");
}

#[test]
fn an_optional_member_may_be_absent_but_not_null() {
    let expected = Sample { handle: 1, logical_id: Option::None, list: Option::None };
    assert_eq!(parsed::<Sample>(r#"{"handle":1}"#), Ok(expected));
    assert_eq!(
        fault(r#"{"handle":1,"logical-id":null}"#),
        "Invalid parameter type for 'logical-id', expected: boolean"
    );
}

#[test]
fn faults_inside_lists_have_the_whole_path() {
    let cases = [
        (r#"[{}]"#, "Parameter 'list[0].id' is missing"),
        (r#"[{"id":1},{"id":"x"}]"#, "Invalid parameter type for 'list[1].id', expected: integer"),
        (r#"[1]"#, "Invalid parameter type for 'list[0]', expected: object"),
        (r#"[{"id":1,"q":2}]"#, "Parameter 'list[0].q' is unexpected"),
    ];
    for (list, expected) in cases {
        assert_eq!(fault(&format!(r#"{{"handle":1,"list":{list}}}"#)), expected);
    }
}

#[test]
fn integers_are_signed_64_bit() {
    for bad in ["9223372036854775808", "1.0", "1e3", "\"1\"", "true", "{}", "1e40"] {
        assert_eq!(fault(&format!(r#"{{"handle":{bad}}}"#)), "Invalid parameter type for 'handle', expected: integer");
    }
    let min = parsed::<Sample>(r#"{"handle":-9223372036854775808}"#).expect("fits");
    assert_eq!(min.handle, i64::MIN);
}

#[test]
fn an_unsigned_number_may_be_written_as_a_negative_one() {
    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "kebab-case")]
    struct Block {
        phys_index: u64,
    }
    let index = |text: &str| parsed::<Block>(&format!("{{\"phys-index\":{text}}}")).map(|block| block.phys_index);
    assert_eq!(index("-1"), Ok(u64::MAX));
    assert_eq!(index("18446744073709551615"), Ok(u64::MAX));
    for other in ["1.5", "\"1\"", "18446744073709551616", "null"] {
        assert_eq!(index(other), Err("Parameter 'phys-index' expects uint64".to_owned()), "{other}");
    }
}
