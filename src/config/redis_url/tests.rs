//! Every form of `redis_url`, and what is refused.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use proptest::prelude::*;

use super::*;

/// What a URL says, in one line.
fn read(text: &str) -> String {
    let url = parse(text).unwrap_or_else(|fault| panic!("{text}: {fault:?}"));
    let list = |nodes: &[RedisNode]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let place = match &url.topology {
        RedisTopology::Single(node) => format!("single {node}"),
        RedisTopology::Unix(path) => format!("unix {}", path.display()),
        RedisTopology::Sentinel { nodes, service } => format!("sentinel {service} {}", list(nodes)),
        RedisTopology::Cluster(nodes) => format!("cluster {}", list(nodes)),
    };
    let login = |login: &RedisLogin| match login.parts() {
        (None, None) => String::new(),
        (user, password) => format!(" as {}:{}", user.unwrap_or("-"), password.unwrap_or("-")),
    };
    let tls = if url.tls { " tls" } else { "" };
    let (to_redis, to_sentinels) = (login(&url.login), login(&url.sentinel_login));
    format!("{place} db{}{tls}{to_redis}{to_sentinels}", url.database)
}

#[test]
fn every_documented_form_is_read() {
    for (text, meaning) in [
        ("redis://host", "single host:6379 db0"),
        ("redis://127.0.0.1:7000/3", "single 127.0.0.1:7000 db3"),
        ("redis://host/", "single host:6379 db0"),
        ("redis://@host", "single host:6379 db0"),
        ("redis://:@host", "single host:6379 db0"),
        ("valkey://host", "single host:6379 db0"),
        ("rediss://host:1", "single host:1 db0 tls"),
        ("valkeys://host", "single host:6379 db0 tls"),
        ("redis://:pw@host", "single host:6379 db0 as -:pw"),
        ("redis://user:@host", "single host:6379 db0 as user:"),
        ("redis://us%3Aer:p%40%2f%25%C3%A9@host/1", "single host:6379 db1 as us:er:p@/%é"),
        ("redis://user:p@w:x@host", "single host:6379 db0 as user:p@w:x"),
        ("redis://[::1]", "single [::1]:6379 db0"),
        ("redis://u:p@[fe80::1]:7/2", "single [fe80::1]:7 db2 as u:p"),
        ("redis+unix:///run/redis.sock", "unix /run/redis.sock db0"),
        ("unix:///run/a%20b?db=4", "unix /run/a b db4"),
        ("redis+unix://u:p@/run/redis.sock?db=1", "unix /run/redis.sock db1 as u:p"),
        ("redis+sentinel://a/main", "sentinel main a:26379 db0"),
        ("redis+sentinel://u:p@a:1,[::2],c/main/5", "sentinel main a:1 [::2]:26379 c:26379 db5 as u:p"),
        (
            "rediss+sentinel://:p@a/ma%2Fin?sentinel_username=s&sentinel_password=q%26",
            "sentinel ma/in a:26379 db0 tls as -:p as s:q&",
        ),
        ("redis+sentinel://a/main?sentinel_password=q", "sentinel main a:26379 db0 as -:q"),
        ("redis+cluster://a", "cluster a:6379 db0"),
        ("rediss+cluster://u:p@a:7000,b:7001/0", "cluster a:7000 b:7001 db0 tls as u:p"),
    ] {
        assert_eq!(read(text), meaning, "{text}");
    }
}

#[test]
fn what_is_wrong_is_said_without_the_url() {
    for (text, found) in [
        ("", "no URL"),
        ("host:6379", "no URL"),
        ("http://u:secret-value@host", "a URL of another scheme"),
        ("REDIS://host", "a URL of another scheme"),
        ("redis://ho st", "spaces or line breaks"),
        ("rediss://host/0#insecure", "a # in the URL"),
        ("redis://", "no host, or one with odd characters"),
        ("redis:///0", "no host, or one with odd characters"),
        ("redis://h$st", "no host, or one with odd characters"),
        ("redis+cluster://a,,b", "no host, or one with odd characters"),
        ("redis+cluster://a,", "no host, or one with odd characters"),
        ("redis://host:", "a port that is no number from 1 to 65535"),
        ("redis://host:0", "a port that is no number from 1 to 65535"),
        ("redis://host:65536", "a port that is no number from 1 to 65535"),
        ("redis://host:+1", "a port that is no number from 1 to 65535"),
        ("redis://user:secret-value/x@host", "a / or ? before the @"),
        ("redis://:secret-value?x@host", "a / or ? before the @"),
        ("redis://::1", "an IPv6 address without brackets"),
        ("redis://[::1", "brackets without an IPv6 address"),
        ("redis://[host]", "brackets without an IPv6 address"),
        ("redis://[::1]7", "brackets without an IPv6 address"),
        ("redis://a,b", "several hosts"),
        ("redis://secret-value@host", "a user without a password"),
        ("redis+sentinel://a/main?sentinel_username=s", "a user without a password"),
        ("redis://:secret-value%@host", "a % without two hexadecimal digits"),
        ("redis://:secret-value%f@host", "a % without two hexadecimal digits"),
        ("redis://:%ff@host", "escapes (%…) that are no text"),
        ("redis://:%00@host", "escapes (%…) that are no text"),
        ("redis://host/one", "a database that is no number"),
        ("redis://host/-1", "a database that is no number"),
        ("redis://host/1/2", "a database that is no number"),
        ("redis://host/4294967296", "a database that is no number"),
        ("redis+unix:///s?db=x", "a database that is no number"),
        ("redis+sentinel://a/main/x", "a database that is no number"),
        ("redis+unix://", "a URL without an absolute path"),
        ("unix://run/redis.sock", "a URL without an absolute path"),
        ("redis+sentinel://a", "Sentinels without the name of the service they watch"),
        ("redis+sentinel://a//1", "Sentinels without the name of the service they watch"),
        ("redis+cluster://a/1", "a database of a Cluster"),
        ("redis://host?db=1", "another parameter after the ?, or one twice"),
        ("redis+cluster://a?readonly=1", "another parameter after the ?, or one twice"),
        ("redis+unix:///s?db=1&db=2", "another parameter after the ?, or one twice"),
        ("redis+unix:///s?password=secret-value", "another parameter after the ?, or one twice"),
        ("redis+sentinel://a/main?db=1", "another parameter after the ?, or one twice"),
    ] {
        let fault = parse(text).err().unwrap_or_else(|| panic!("accepted: {text}"));
        assert_eq!(fault.found, found, "{text}");
    }
}

#[test]
fn two_urls_are_the_same_when_they_mean_the_same() {
    let same = |one, two| parse(one).unwrap() == parse(two).unwrap();
    assert!(same("redis://a", "valkey://a:6379/0"));
    for (one, two) in [
        ("redis://a", "redis://b"),
        ("redis://a", "rediss://a"),
        ("redis://a", "redis://a/1"),
        ("redis://:x@a", "redis://:y@a"),
        ("redis://u:x@a", "redis://:x@a"),
        ("redis+sentinel://a/m", "redis+sentinel://a/m?sentinel_password=x"),
    ] {
        assert!(!same(one, two), "{one} {two}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(scheme in "redis(s|\\+unix|\\+sentinel|\\+cluster)?", rest in "[a-z0-9:@/,?&=%.é\\[\\]-]{0,40}") {
        let _ = parse(&format!("{scheme}://{rest}"));
    }

    #[test]
    fn any_password_is_read_when_it_is_escaped(password in "\\PC{1,30}") {
        let escaped: String = password.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let url = parse(&format!("redis://:{escaped}@host")).unwrap();
        prop_assert_eq!(url.login.parts(), (None, Some(password.as_str())));
    }
}
