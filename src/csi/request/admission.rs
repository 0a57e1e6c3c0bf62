//! Checks of volume attributes for the API server: expressions of an admission policy (CEL), with the messages of the
//! driver. A pod with a mistyped attribute is refused when it is created, and not only when it is mounted.
//!
//! The chart's policies contain these expressions, from a file that `ovl volume-attributes` writes. They use the
//! variable `volumes` of the chart: the volumes of this driver that have attributes.
//!
//! Deliberately absent: checks of image references, quantities and paths. The driver reports these when it mounts.

use serde_json::{Value, json};

use super::{
    attributes::{KEYS, KUBELET, expected_key, expected_word, words},
    invalid_argument::BadRequest,
};

/// Placeholders for the parts of a message that are known at run time only.
const KEY: &str = "KEY";
const VALUE: &str = "VALUE";
const EXPECTED: &str = "EXPECTED";

/// The variables and validations of the policies, as YAML.
pub(crate) fn policy_yaml() -> String {
    let words = words();
    let table = |text: &dyn Fn(&[&'static str]) -> Value| -> String {
        let pairs = words.iter().map(|(key, words)| format!("{}: {}", json!(key), text(words)));
        format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
    };
    let is_unknown = format!("!(k in variables.keys) && !k.startsWith({})", json!(KUBELET));
    let is_wrong =
        "k in variables.words && !(v.csi.volumeAttributes[k] in variables.words[k])".to_owned();
    let value = "v.csi.volumeAttributes[k]";
    let unknown = BadRequest::UnknownAttribute { key: KEY.to_owned(), expected: expected_key() };
    let unknown = expression(&unknown.to_string(), &[(KEY, "k")]);
    let wrong =
        BadRequest::Value { key: KEY, value: VALUE.to_owned(), expected: EXPECTED.to_owned() };
    let wrong = expression(
        &wrong.to_string(),
        &[(KEY, "k"), (VALUE, value), (EXPECTED, "variables.expected[k]")],
    );
    let both = literal(&BadRequest::ImageAndImages.to_string());
    let both = format!(
        "variables.volumes.map(v, \"image\" in v.csi.volumeAttributes && \"images\" in v.csi.volumeAttributes, \
         {PREFIX} + {both})"
    );
    let variables = [
        ("keys", json!(KEYS).to_string()),
        ("words", table(&|words| json!(words))),
        ("expected", table(&|words| json!(expected_word(words)))),
        ("unknown", faults(&is_unknown, &unknown)),
        ("wrong", faults(&is_wrong, &wrong)),
        ("both", both),
    ];
    let mut yaml =
        "# Written by `ovl volume-attributes`, and compared with it by a test.\nvariables:\n"
            .to_owned();
    for (name, expression) in variables {
        yaml.push_str(&format!("- name: {name}\n  expression: {}\n", json!(expression)));
    }
    yaml.push_str("validations:\n");
    for name in ["unknown", "wrong", "both"] {
        yaml.push_str(&format!(
            "- expression: size(variables.{name}) == 0\n  messageExpression: variables.{name}[0]\n  \
             message: the volumeAttributes of a volume are invalid\n  reason: Invalid\n"
        ));
    }
    yaml
}

/// The start of a message: a pod can have several volumes.
const PREFIX: &str = "\"volume \" + v.name + \": \"";

/// A list with a message for each volume that has an attribute `k` for which this holds. As in the driver, the message is
/// about the first such attribute in the order of their names.
fn faults(holds: &str, message: &str) -> String {
    let attributes = "v.csi.volumeAttributes";
    format!(
        "variables.volumes.map(v, {attributes}.exists(k, {holds}), \
         [{attributes}.filter(k, {holds}).min()].map(k, {PREFIX} + {message})[0])"
    )
}

/// A message as an expression: each placeholder becomes the expression beside it, and the rest is literal.
fn expression(message: &str, values: &[(&str, &str)]) -> String {
    let found = values.iter().filter_map(|(name, cel)| Some((message.find(name)?, *name, *cel)));
    match found.min() {
        None => literal(message),
        Some((at, name, cel)) => {
            let (before, after) = (&message[..at], &message[at + name.len()..]);
            format!("{} + {cel} + {}", literal(before), expression(after, values))
        }
    }
}

/// A string literal. Those of JSON are literals of CEL too.
fn literal(text: &str) -> String {
    json!(text).to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::csi::{
        config::Defaults,
        request::attributes::{Mount, spec},
    };

    #[test]
    fn the_chart_ships_these_checks() {
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/charts/ovl-csi/files/volume-attributes.yaml");
        let shipped = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            shipped == policy_yaml(),
            "{path} differs from the code: run `ovl volume-attributes > {path}`"
        );
    }

    /// Otherwise the driver alone would check a new attribute.
    #[test]
    fn each_attribute_with_words_is_in_the_table() {
        let words = words();
        for key in KEYS {
            let context = HashMap::from([(key.to_owned(), "no-such-word".to_owned())]);
            // Only words are quoted.
            let expected = match spec(context, Mount::default(), &Defaults::default()) {
                Err(BadRequest::Value { expected, .. }) if expected.starts_with('"') => {
                    Some(expected)
                }
                _ => None,
            };
            let listed = words.iter().find(|(name, _)| *name == key);
            assert_eq!(listed.map(|(_, words)| expected_word(words)), expected, "{key}");
        }
    }

    #[test]
    fn a_message_becomes_an_expression() {
        let message = "KEY is \"VALUE\": set it";
        assert_eq!(
            expression(message, &[(KEY, "k"), (VALUE, "m[k]")]),
            r#""" + k + " is \"" + m[k] + "\": set it""#
        );
    }

    /// A placeholder that a message contains anyway would be replaced too.
    #[test]
    fn no_message_contains_a_placeholder_by_itself() {
        let unknown = BadRequest::UnknownAttribute { key: String::new(), expected: expected_key() };
        let wrong = BadRequest::Value { key: "", value: String::new(), expected: String::new() };
        for message in [unknown.to_string(), wrong.to_string()] {
            for placeholder in [KEY, VALUE, EXPECTED] {
                assert!(!message.contains(placeholder), "{message}");
            }
        }
    }
}
