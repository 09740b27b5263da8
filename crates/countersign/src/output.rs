//! How an answer is shown: one JSON object for machines, lines or a table for people.

use std::fmt::Write as _;

use serde_json::Value;

/// Prints `answer` on standard output.
#[expect(clippy::print_stdout, reason = "this is the command's answer")]
pub fn show(answer: &Value, json: bool) {
    if json {
        println!("{answer}");
    } else {
        print!("{}", readable(answer));
    }
}

/// The answer for people. An object whose one interesting member is a list becomes a table.
fn readable(answer: &Value) -> String {
    let Some(object) = answer.as_object() else { return format!("{}\n", cell(answer)) };
    let mut text = String::new();
    for (key, value) in object {
        match value.as_array() {
            Some(rows) if rows.iter().all(Value::is_object) => text.push_str(&table(rows)),
            Some(_) | None => {
                let _ = writeln!(text, "{key}: {}", cell(value));
            }
        }
    }
    if text.is_empty() { "done\n".to_owned() } else { text }
}

fn table(rows: &[Value]) -> String {
    let Some(first) = rows.first().and_then(Value::as_object) else { return "none\n".to_owned() };
    let columns: Vec<&String> = first.keys().collect();
    let cells: Vec<Vec<String>> = std::iter::once(columns.iter().map(|name| (*name).clone()).collect())
        .chain(rows.iter().map(|row| columns.iter().map(|name| cell(&row[name.as_str()])).collect()))
        .collect();
    let widths: Vec<usize> = (0..columns.len())
        .map(|column| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in cells {
        let line: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "{}", line.join("  ").trim_end());
    }
    text
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => {
            text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
        }
        Value::Null => "-".to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_is_a_table_and_control_characters_are_inert() {
        let answer =
            json!({"agents": [{"id": "a", "state": "active"}, {"id": "bot\u{1b}[2J", "state": "suspended"}]});
        let text = readable(&answer);
        assert!(text.starts_with("id"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn an_empty_answer_still_says_something() {
        assert_eq!(readable(&json!({})), "done\n");
        assert_eq!(readable(&json!({"agents": []})), "none\n");
    }
}
