//! What was measured, as a table or as JSON: medians over the rounds, and the gateway against the peer.
//!
//! Ratios within one run mean something; absolute figures say as much about the machine.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use crate::caller::Mode;
use crate::flush::Flush;
use crate::rounds::{Measured, quantile};

/// A whole run.
pub(crate) struct Report {
    pub(crate) policies: usize,
    /// Of the machine, before and after.
    pub(crate) load_average: [String; 2],
    pub(crate) flush: Flush,
    pub(crate) measured: Vec<Measured>,
}

/// Medians of the same measurement over all rounds.
struct Row {
    mode: Mode,
    connections: usize,
    rounds: usize,
    calls_per_sec: f64,
    p50_micros: f64,
    p99_micros: f64,
    cpu_micros: f64,
    user_micros: f64,
    upstream_cpu_micros: f64,
    load_cpu_micros: f64,
    records_per_sec: f64,
    /// Memory of the gateway, or the peer, after the last round.
    resident_mib: f64,
    errors: u64,
    first_error: Option<String>,
    /// Processor time per call by thread, in microseconds.
    threads: BTreeMap<String, f64>,
}

impl Report {
    /// Calls that were not answered with a result, and measurements without calls.
    pub(crate) fn errors(&self) -> u64 {
        self.measured.iter().map(|measured| measured.errors + u64::from(measured.calls == 0)).sum()
    }

    fn rows(&self) -> Vec<Row> {
        let mut groups: Vec<(Mode, usize, Vec<&Measured>)> = Vec::new();
        for measured in &self.measured {
            let same = |group: &&mut (Mode, usize, Vec<&Measured>)| {
                (group.0, group.1) == (measured.mode, measured.connections)
            };
            match groups.iter_mut().find(same) {
                Some(group) => group.2.push(measured),
                None => groups.push((measured.mode, measured.connections, vec![measured])),
            }
        }
        groups.into_iter().map(|(mode, connections, rounds)| Row::of(mode, connections, &rounds)).collect()
    }

    /// The run as JSON.
    pub(crate) fn json(&self) -> Value {
        let rows: Vec<Value> = self.rows().iter().map(Row::json).collect();
        let ratios: Vec<Value> = self
            .ratios()
            .iter()
            .map(|ratio| {
                json!({
                    "mode": ratio.mode.short(), "connections": ratio.connections,
                    "throughput": ratio.throughput, "cpu": ratio.cpu, "added_p50_us": ratio.added_p50_micros,
                })
            })
            .collect();
        json!({
            "policies": self.policies,
            "load_average": self.load_average,
            "flush_us": { "p50": self.flush.p50_micros, "p99": self.flush.p99_micros },
            "rows": rows,
            "against_peer": ratios,
        })
    }

    fn ratios(&self) -> Vec<Ratio> {
        let rows = self.rows();
        let gateway = rows.iter().filter(|row| row.mode != Mode::Peer);
        gateway
            .filter_map(|row| {
                let same = |peer: &&Row| peer.mode == Mode::Peer && peer.connections == row.connections;
                let peer = rows.iter().find(same)?;
                Some(Ratio {
                    mode: row.mode,
                    connections: row.connections,
                    throughput: row.calls_per_sec / peer.calls_per_sec,
                    cpu: row.cpu_micros / peer.cpu_micros,
                    added_p50_micros: row.p50_micros - peer.p50_micros,
                })
            })
            .collect()
    }
}

struct Ratio {
    mode: Mode,
    connections: usize,
    throughput: f64,
    cpu: f64,
    added_p50_micros: f64,
}

impl Row {
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    fn of(mode: Mode, connections: usize, rounds: &[&Measured]) -> Self {
        let median_of =
            |value: &dyn Fn(&Measured) -> f64| median(rounds.iter().map(|round| value(round)).collect());
        let per_call = |micros: u64, round: &Measured| micros as f64 / round.calls.max(1) as f64;
        let mut names: Vec<&String> = rounds.iter().flat_map(|round| round.used.threads.keys()).collect();
        names.sort_unstable();
        names.dedup();
        let thread = |name: &String| {
            let micros = |round: &Measured| round.used.threads.get(name).copied().unwrap_or(0);
            (name.clone(), median_of(&|round| per_call(micros(round), round)))
        };
        Self {
            mode,
            connections,
            rounds: rounds.len(),
            calls_per_sec: median_of(&|round| round.calls as f64 / round.elapsed.as_secs_f64()),
            p50_micros: median_of(&|round| f64::from(quantile(&round.latencies, 0.50))),
            p99_micros: median_of(&|round| f64::from(quantile(&round.latencies, 0.99))),
            cpu_micros: median_of(&|round| per_call(round.used.total(), round)),
            user_micros: median_of(&|round| per_call(round.used.user, round)),
            upstream_cpu_micros: median_of(&|round| per_call(round.used_by_upstream.total(), round)),
            load_cpu_micros: median_of(&|round| per_call(round.used_by_load.total(), round)),
            records_per_sec: median_of(&|round| round.records as f64 / round.elapsed.as_secs_f64()),
            resident_mib: rounds.last().map_or(0.0, |round| round.used.resident_kib as f64 / 1024.0),
            errors: rounds.iter().map(|round| round.errors).sum(),
            first_error: rounds.iter().find_map(|round| round.first_error.clone()),
            threads: names.into_iter().map(thread).filter(|(_, micros)| *micros >= 0.05).collect(),
        }
    }

    fn json(&self) -> Value {
        json!({
            "mode": self.mode.short(),
            "connections": self.connections,
            "rounds": self.rounds,
            "calls_per_sec": self.calls_per_sec,
            "p50_us": self.p50_micros,
            "p99_us": self.p99_micros,
            "cpu_us_per_call": self.cpu_micros,
            "user_us_per_call": self.user_micros,
            "upstream_cpu_us_per_call": self.upstream_cpu_micros,
            "load_cpu_us_per_call": self.load_cpu_micros,
            "records_per_sec": self.records_per_sec,
            "resident_mib": self.resident_mib,
            "errors": self.errors,
            "first_error": self.first_error,
            "threads_us_per_call": self.threads,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [before, after] = &self.load_average;
        writeln!(
            f,
            "{} policies; load average {before} before, {after} after; a flush takes {} us (p50), {} us (p99)\n",
            self.policies, self.flush.p50_micros, self.flush.p99_micros
        )?;
        writeln!(
            f,
            "{:<32} {:>5} {:>9} {:>8} {:>8} {:>12} {:>9} {:>10} {:>6} {:>7}",
            "",
            "conns",
            "calls/s",
            "p50 us",
            "p99 us",
            "CPU us/call",
            "in user",
            "records/s",
            "MiB",
            "errors"
        )?;
        let rows = self.rows();
        for row in &rows {
            writeln!(
                f,
                "{:<32} {:>5} {:>9.0} {:>8.0} {:>8.0} {:>12.1} {:>9.1} {:>10.0} {:>6.0} {:>7}",
                row.mode.name(),
                row.connections,
                row.calls_per_sec,
                row.p50_micros,
                row.p99_micros,
                row.cpu_micros,
                row.user_micros,
                row.records_per_sec,
                row.resident_mib,
                row.errors
            )?;
        }
        for ratio in self.ratios() {
            writeln!(
                f,
                "\n{} against nginx, {} connection(s): throughput x{:.2}, CPU x{:.2}, p50 {:+.0} us",
                ratio.mode.short(),
                ratio.connections,
                ratio.throughput,
                ratio.cpu,
                ratio.added_p50_micros
            )?;
        }
        writeln!(
            f,
            "\nCPU us/call by thread (and of the tool server and of the load itself, for comparison):"
        )?;
        for row in &rows {
            let threads: Vec<String> =
                row.threads.iter().map(|(name, micros)| format!("{name} {micros:.1}")).collect();
            writeln!(
                f,
                "  {:<8} {:>4}  {}  (tool server {:.1}, load {:.1})",
                row.mode.short(),
                row.connections,
                threads.join(", "),
                row.upstream_cpu_micros,
                row.load_cpu_micros
            )?;
        }
        for row in rows.iter().filter(|row| row.errors > 0) {
            writeln!(
                f,
                "\nfirst error of {}: {}",
                row.mode.short(),
                row.first_error.as_deref().unwrap_or("none")
            )?;
        }
        Ok(())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_lies_in_the_middle() {
        assert!(
            [(vec![3.0, 1.0, 2.0], 2.0), (vec![1.0, 4.0], 2.5), (vec![], 0.0)]
                .into_iter()
                .all(|(values, expected)| (median(values) - expected).abs() < 1e-9)
        );
    }
}
