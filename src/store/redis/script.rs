//! The scripts: each is one atomic step at the server.

use std::sync::LazyLock;

use redis::Cmd;

/// A script and the name that servers know it by.
pub(super) struct Script {
    code: &'static str,
    hash: String,
}

impl Script {
    fn new(code: &'static str) -> Self {
        Self { code, hash: redis::Script::new(code).get_hash().to_owned() }
    }

    /// The command that makes a server know it.
    fn load(&self) -> Cmd {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(self.code);
        command
    }
}

macro_rules! scripts {
    ($($name:ident = $file:literal;)+) => {
        $(pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(concat!(include_str!("common.lua"), include_str!($file))));)+

        /// Commands that make a server know every script.
        pub(super) fn load_all() -> Vec<Cmd> {
            vec![$($name.load()),+]
        }
    };
}

scripts! {
    ACQUIRE = "acquire.lua";
    BEAT = "beat.lua";
    CHECK = "check.lua";
    CLAIM = "claim.lua";
    FORGET_SEALED = "forget_sealed.lua";
    GET = "get.lua";
    INBOX = "inbox.lua";
    LEAVE = "leave.lua";
    LIST = "list.lua";
    LOAD = "load.lua";
    PRUNE = "prune.lua";
    RECORD = "record.lua";
    RELEASE = "release.lua";
    SAVE = "save.lua";
    SEAL = "seal.lua";
    SEND = "send.lua";
    SET_ASIDE = "set_aside.lua";
}

/// One call of a script, without the prefix of the keys.
pub(super) struct Call {
    script: &'static LazyLock<Script>,
    args: Vec<Vec<u8>>,
}

impl Call {
    pub(super) fn new(script: &'static LazyLock<Script>) -> Self {
        Self { script, args: Vec::new() }
    }

    /// Appends an argument.
    pub(super) fn arg(mut self, value: impl Into<Vec<u8>>) -> Self {
        self.args.push(value.into());
        self
    }

    /// Replaces an argument.
    pub(super) fn set(&mut self, place: usize, value: impl Into<Vec<u8>>) {
        if let Some(arg) = self.args.get_mut(place) {
            *arg = value.into();
        }
    }

    /// About how much memory it holds.
    pub(super) fn bytes(&self) -> usize {
        self.args.iter().map(|arg| arg.len() + size_of::<Vec<u8>>()).sum()
    }

    /// The command, for keys with a prefix.
    pub(super) fn command(&self, prefix: &str) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(self.script.hash.as_str()).arg(1).arg(prefix);
        for arg in &self.args {
            command.arg(arg);
        }
        command
    }
}
