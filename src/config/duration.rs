//! Durations as people and the Python original write them.

use std::time::Duration;

/// The longest duration that is accepted: ten years of 365 days.
const MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

/// The forms that [`parse`] reads, for error messages.
pub(super) const FORMS: &str = "a duration like 15m, 1h30m, 900 (seconds), PT15M or 00:15:00";

/// Reads a duration: `15m`, `1h30m` (units w d h m s ms), `900` or `0.5` (seconds), `PT15M`
/// (ISO 8601 without years and months), `[DD ][HH:]MM:SS[.ffffff]` or `N days, HH:MM:SS`.
/// `None`: not a duration, negative, or longer than ten years.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let text = text.trim();
    let seconds = if text.starts_with(['P', 'p']) {
        iso(text)?
    } else if text.contains(':') || text.contains(' ') {
        clock(text).or_else(|| units(text))?
    } else {
        number(text).or_else(|| units(text))?
    };
    Duration::try_from_secs_f64(seconds).ok().filter(|duration| *duration <= MAX)
}

/// Digits with at most one point: no sign, no exponent, no `inf`.
fn number(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    (plain && text.bytes().any(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// A run of `<number><unit>`; `unit` gives the seconds of a unit and its rank, which must fall.
fn run(mut text: &str, unit: impl Fn(&str) -> Option<(f64, u8)>) -> Option<f64> {
    let mut total = 0.0;
    let mut last = u8::MAX;
    if text.is_empty() {
        return None;
    }
    while !text.is_empty() {
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let amount = number(&text[..digits])?;
        let rest = text[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let (seconds, rank) = unit(&rest[..letters])?;
        if rank >= last {
            return None;
        }
        last = rank;
        total += amount * seconds;
        text = rest[letters..].trim_start();
    }
    Some(total)
}

fn units(text: &str) -> Option<f64> {
    run(text, |unit| {
        Some(match unit {
            "w" | "week" | "weeks" => (604_800.0, 6),
            "d" | "day" | "days" => (86_400.0, 5),
            "h" | "hour" | "hours" => (3_600.0, 4),
            "m" | "min" | "minute" | "minutes" => (60.0, 3),
            "s" | "sec" | "second" | "seconds" => (1.0, 2),
            "ms" => (0.001, 1),
            _ => return None,
        })
    })
}

fn iso(text: &str) -> Option<f64> {
    let text = text.to_ascii_uppercase();
    let body = text.strip_prefix('P')?;
    let (days, time) = body.split_once('T').map_or((body, None), |(days, time)| (days, Some(time)));
    let days = match days {
        "" if time.is_some() => 0.0,
        days => run(days, |unit| match unit {
            "W" => Some((604_800.0, 2)),
            "D" => Some((86_400.0, 1)),
            _ => None,
        })?,
    };
    let time = time.map_or(Some(0.0), |time| {
        run(time, |unit| match unit {
            "H" => Some((3_600.0, 3)),
            "M" => Some((60.0, 2)),
            "S" => Some((1.0, 1)),
            _ => None,
        })
    })?;
    Some(days + time)
}

fn clock(text: &str) -> Option<f64> {
    let (days, time) = text.split_once(' ').unwrap_or(("0", text));
    let time = time.trim_start_matches("days,").trim_start_matches("day,").trim_start();
    let mut seconds = 0.0;
    let parts: Vec<&str> = time.split(':').collect();
    if parts.len() > 3 {
        return None;
    }
    for (index, part) in parts.iter().enumerate() {
        let whole = index + 1 < parts.len();
        if whole && part.contains('.') {
            return None;
        }
        seconds = seconds * 60.0 + number(part)?;
    }
    (!days.contains('.')).then(|| number(days)).flatten().map(|days| days * 86_400.0 + seconds)
}

/// The shortest way to write `duration`, like `1h30m` or `0s`.
pub(crate) fn show(duration: Duration) -> String {
    let mut rest = duration.as_secs();
    let mut text = String::new();
    for (unit, seconds) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
        if rest >= seconds {
            text.push_str(&format!("{}{unit}", rest / seconds));
            rest %= seconds;
        }
    }
    if duration.subsec_millis() > 0 {
        text.push_str(&format!("{}ms", duration.subsec_millis()));
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_form_is_read() {
        for (text, seconds) in [
            ("15m", 900.0),
            ("1h30m", 5_400.0),
            ("1h 30m", 5_400.0),
            ("15 minutes", 900.0),
            ("900", 900.0),
            ("0.5", 0.5),
            ("12h", 43_200.0),
            ("7d", 604_800.0),
            ("250ms", 0.25),
            ("PT15M", 900.0),
            ("P1DT12H", 129_600.0),
            ("PT0.5S", 0.5),
            ("00:15:00", 900.0),
            ("15:00", 900.0),
            ("12:00:00.250000", 43_200.25),
            ("1 02:03:04", 93_784.0),
            ("3 days, 00:00:10", 259_210.0),
            ("0", 0.0),
        ] {
            assert_eq!(parse(text), Some(Duration::from_secs_f64(seconds)), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_duration_is_refused() {
        for text in [
            "",
            " ",
            "m",
            "15x",
            "-15m",
            "-900",
            "1e9",
            "inf",
            "NaN",
            "15m1h",
            "5m5m",
            "P",
            "PT",
            "P1Y",
            "1:2:3:4",
            "1.5:00",
            ":",
            "::",
            "1.5 00:00:01",
            "4000d",
            "99999999999999999999",
            "15m,",
            "١5m",
            "1.2.3",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        for seconds in [0, 1, 59, 60, 900, 5_400, 43_200, 604_800, 93_784] {
            let duration = Duration::from_secs(seconds);
            assert_eq!(parse(&show(duration)), Some(duration));
        }
        assert_eq!(show(Duration::from_millis(1_500)), "1s500ms");
    }
}
