//! Changes an input: as bytes, as lines, and as the JSON that is in it.
//!
//! JSON is changed as text, so that what no program would write comes as well: a key twice, half a surrogate, a number
//! that no type holds.

use crate::chance::Chance;

/// Longest input; a few are made longer on purpose.
const LENGTH_MAX: usize = 128 << 10;
/// Length of what is made long.
const LONG: [usize; 5] = [40, 300, 1100, 5000, 70_000];

/// JSON values that are at the edge of something.
const VALUES: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "-1",
    "1",
    "-0.0",
    "0.1",
    "1e308",
    "1e999",
    "255",
    "65536",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "\"\"",
    "\"0\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"\\udc00\\ud800\"",
    "\"a\\u202eb\"",
    "\"\u{1F600}\u{301}\"",
    "\"../../etc/passwd\"",
    "\"<script>'\\\"`$(id);%s%n\"",
    "\"9999-12-30T22:00:00.999999999Z\"",
    "\"-009999-01-02T01:59:59Z\"",
    "\"1970-01-01T00:00:00Z\"",
    "\"2025-10-09T08:59:00Z\"",
    "\"2026-10-09T08:59:00Z\"",
    "\"2025-10-09T08:53:20Z\"",
    "\"2025-10-09T08:53:20+25:99\"",
    "[]",
    "{}",
    "[[]]",
    "[null]",
    "{\"\":null}",
    "{\"secs\":18446744073709551615,\"nanos\":999999999}",
    "{\"secs\":18446744073709551615,\"nanos\":4294967295}",
    "{\"open\":{\"until\":\"9999-12-30T22:00:00.999999999Z\"}}",
];

/// Words for lines and headers.
const WORDS: &[&str] = &[
    "0",
    "-1",
    "1",
    "99999999999999999999",
    "18446744073709551615",
    "1e9",
    "NaN",
    "~",
    "null",
    "true",
    "[]",
    "{}",
    "*a",
    "&a",
    "!!int 1",
    "<<",
    "|",
    ">",
    "''",
    "\"",
    "\t",
    "%",
    "@",
    "15m",
    "1w2d",
    "PT1H",
    "00:15:00",
    "9999999999999w",
    "-5m",
    "1.5h",
    "redis://a",
    "https://a:b@c",
    "http://[::1]:0/",
    "a/b",
    "a, b;c=\"d",
    "<x>; rel=\"next\"",
    "</a?page=2>; rel=next",
    "Tue, 14 Nov 2023 22:13:20 GMT",
    "Thu, 01 Jan 1970 00:00:00 GMT",
    "W/\"x\"",
    "gzip",
    "chunked",
    "application/x-www-form-urlencoded",
    "application/json; charset=utf-16",
    "payload=%7B%7D",
    "\u{0}",
    "\u{FEFF}",
    "\u{2028}",
    "\u{1F600}",
];

/// A changed copy of `parent`; pieces of `other` may come in.
pub fn mutate(chance: &mut Chance, parent: &[u8], other: &[u8]) -> Vec<u8> {
    let mut input = parent.to_vec();
    for _ in 0..=chance.below(4) {
        match chance.below(10) {
            0 | 1 => bytes(chance, &mut input, other),
            2..=4 => lines(chance, &mut input, other),
            _ => json(chance, &mut input, other),
        }
        input.truncate(LENGTH_MAX);
    }
    input
}

fn range(chance: &mut Chance, length: usize) -> std::ops::Range<usize> {
    let start = chance.below(length + 1);
    let longest = if chance.one_in(4) { length - start } else { (length - start).min(16) };
    start..start + chance.below(longest + 1)
}

fn bytes(chance: &mut Chance, input: &mut Vec<u8>, other: &[u8]) {
    let at = chance.below(input.len());
    match chance.below(8) {
        0 if !input.is_empty() => input[at] ^= 1 << chance.below(8),
        1 if !input.is_empty() => input[at] = chance.next() as u8,
        2 => input.truncate(at),
        3 => drop(input.drain(range(chance, input.len()))),
        4 => {
            let piece = input[range(chance, input.len())].to_vec();
            let at = chance.below(input.len() + 1);
            input.splice(at..at, piece);
        }
        5 => {
            let piece = other[range(chance, other.len())].to_vec();
            let place = range(chance, input.len());
            input.splice(place, piece);
        }
        6 => {
            // The beginning of the one, the end of the other.
            input.truncate(at);
            input.extend_from_slice(&other[chance.below(other.len() + 1)..]);
        }
        _ => {
            let odd: &[&[u8]] =
                &[b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\r", b"\n", b"\"", b"\\", b"\xef\xbb\xbf"];
            let odd = chance.pick(odd).to_vec();
            input.splice(at..at, odd);
        }
    }
}

fn lines(chance: &mut Chance, input: &mut Vec<u8>, other: &[u8]) {
    let mut lines: Vec<Vec<u8>> = input.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    let theirs: Vec<&[u8]> = other.split(|b| *b == b'\n').collect();
    let at = chance.below(lines.len());
    match chance.below(8) {
        0 => drop(lines.remove(at)),
        1 => lines.insert(at, lines[at].clone()),
        2 => {
            let with = chance.below(lines.len());
            lines.swap(at, with);
        }
        3 => lines.insert(at, chance.pick(&theirs).to_vec()),
        4 => lines[at] = chance.pick(&theirs).to_vec(),
        5 => {
            let indent: &[&[u8]] = &[b" ", b"  ", b"- ", b"\t", b"    "];
            let indent = chance.pick(indent).to_vec();
            lines[at].splice(0..0, indent);
        }
        6 => {
            let spaces = lines[at].iter().take_while(|b| **b == b' ').count();
            lines[at].drain(..spaces.min(2));
        }
        _ => {
            // Another value for the same key.
            let colon = lines[at].windows(2).position(|two| two == b": ");
            lines[at].truncate(colon.map_or(0, |colon| colon + 2));
            let value = value(chance);
            lines[at].extend(value);
        }
    }
    *input = lines.join(&b'\n');
}

/// A value for a header or a key.
fn value(chance: &mut Chance) -> Vec<u8> {
    match chance.below(6) {
        0 => chance.pick(VALUES).as_bytes().to_vec(),
        1 => {
            let length = *chance.pick(&LONG);
            let word = chance.pick(&["x", "9", "\u{fc}", "[", "a: ", " ", "a,"]);
            word.repeat(length / word.len()).into_bytes()
        }
        _ => chance.pick(WORDS).as_bytes().to_vec(),
    }
}

/// Where things are in a JSON text.
#[derive(Default)]
struct Places {
    values: Vec<(usize, usize)>,
    /// From the beginning of the key to the end of the value.
    members: Vec<(usize, usize)>,
    keys: Vec<(usize, usize)>,
}

/// Finds what is readable of the JSON that begins at `at`; where it ends.
fn find(text: &[u8], at: usize, depth: usize, places: &mut Places) -> Option<usize> {
    let blank = |mut at: usize| {
        while text.get(at).is_some_and(u8::is_ascii_whitespace) {
            at += 1;
        }
        at
    };
    let start = blank(at);
    let end = match *text.get(start)? {
        _ if depth > 64 => return None,
        b'"' => string_end(text, start)?,
        open @ (b'{' | b'[') => {
            let close = if open == b'{' { b'}' } else { b']' };
            let mut at = blank(start + 1);
            while *text.get(at)? != close {
                let member = at;
                if open == b'{' {
                    let end = string_end(text, at)?;
                    places.keys.push((at, end));
                    at = blank(end);
                    if *text.get(at)? != b':' {
                        return None;
                    }
                    at += 1;
                }
                let end = find(text, at, depth + 1, places)?;
                places.members.push((member, end));
                at = blank(end);
                if *text.get(at)? == b',' {
                    at = blank(at + 1);
                }
            }
            at + 1
        }
        _ => {
            let rest = text[start..].iter().position(|b| b",]} \n\r\t".contains(b));
            rest.map_or(text.len(), |length| start + length)
        }
    };
    places.values.push((start, end));
    (end > start).then_some(end)
}

fn string_end(text: &[u8], start: usize) -> Option<usize> {
    if *text.get(start)? != b'"' {
        return None;
    }
    let mut at = start + 1;
    while *text.get(at)? != b'"' {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    Some(at + 1)
}

/// What is readable from one of the brackets of a text.
fn places(chance: &mut Chance, text: &[u8]) -> Places {
    let opens = |b: &u8| matches!(b, b'{' | b'[');
    let mut starts: Vec<usize> =
        text.iter().enumerate().filter(|(_, b)| opens(b)).map(|(at, _)| at).take(200).collect();
    // Mostly all of it, sometimes a part that can be read where the whole cannot.
    if !chance.one_in(3) {
        let outer = |at: &usize| *at == 0 || text[at - 1] == b'\n';
        let outermost: Vec<usize> = starts.iter().copied().filter(outer).collect();
        if !outermost.is_empty() {
            starts = outermost;
        }
    }
    let mut places = Places::default();
    if !starts.is_empty() {
        let start = *chance.pick(&starts);
        find(text, start, 0, &mut places);
    }
    places
}

/// A value, mostly of the same kind as this one: others are refused early.
fn alike(chance: &mut Chance, value: &[u8]) -> &'static str {
    let kind = |value: &[u8]| match value {
        [b'"', _, _, _, _, b'-', ..] | [b'"', b'-', ..] => 't',
        [b'"', ..] => 's',
        [b'0'..=b'9' | b'-', ..] => 'n',
        _ => 'o',
    };
    let same: Vec<&'static str> =
        VALUES.iter().copied().filter(|other| kind(other.as_bytes()) == kind(value)).collect();
    if chance.one_in(4) || same.is_empty() {
        VALUES[chance.below(VALUES.len())]
    } else {
        same[chance.below(same.len())]
    }
}

fn json(chance: &mut Chance, input: &mut Vec<u8>, other: &[u8]) {
    let Places { values, members, keys } = places(chance, input);
    if values.is_empty() {
        return bytes(chance, input, other);
    }
    let (start, end) = *chance.pick(&values);
    match chance.below(12) {
        0..=3 => {
            let value = alike(chance, &input[start..end]);
            input.splice(start..end, value.bytes());
        }
        4 | 5 => {
            // A value of another input, or another value of this one.
            let source = if chance.one_in(2) { other.to_vec() } else { input.clone() };
            let theirs = places(chance, &source).values;
            if !theirs.is_empty() {
                let (from, to) = *chance.pick(&theirs);
                input.splice(start..end, source[from..to].iter().copied());
            }
        }
        6 => {
            let length = *chance.pick(&LONG);
            let word = chance.pick(&["x", "\\u0000", "\u{1F600}", "\u{fc}", "/", "0"]);
            let text = format!("\"{}\"", word.repeat(length / word.len()));
            input.splice(start..end, text.into_bytes());
        }
        7 => {
            let deep = *chance.pick(&[20, 99, 101, 127, 129, 10_000]);
            let (open, close) = *chance.pick(&[("[", "]"), ("{\"a\":", "}")]);
            let inner = input[start..end].to_vec();
            let wrapped = [open.repeat(deep).as_bytes(), &inner, close.repeat(deep).as_bytes()].concat();
            input.splice(start..end, wrapped);
        }
        8 if !members.is_empty() => {
            // One goes, and the comma with it.
            let (start, mut end) = *chance.pick(&members);
            while input.get(end).is_some_and(|b| matches!(b, b',' | b' ')) {
                end += 1;
            }
            input.drain(start..end);
            if input[..start].ends_with(b",") {
                input.remove(start - 1);
            }
        }
        9 if !members.is_empty() => {
            // One comes again, at once or many times.
            let (start, end) = *chance.pick(&members);
            let member = [&input[start..end], b","].concat();
            let times = *chance.pick(&[1, 1, 1, 5, 150, 3000]);
            let times = times.min(LENGTH_MAX / member.len());
            input.splice(start..start, member.repeat(times));
        }
        10 if !keys.is_empty() => {
            let (start, end) = *chance.pick(&keys);
            let (from, to) = *chance.pick(&keys);
            let key = if chance.one_in(3) { b"\"\\ud800\"".to_vec() } else { input[from..to].to_vec() };
            input.splice(start..end, key);
        }
        _ => {
            // The same thing in a list, or as text.
            let inner = String::from_utf8_lossy(&input[start..end]).into_owned();
            let other = if chance.one_in(2) { format!("[{inner}]") } else { format!("{inner:?}") };
            input.splice(start..end, other.into_bytes());
        }
    }
}
