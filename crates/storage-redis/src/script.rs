//! What the server carries out in one piece: some scripts, and the requests for them.
//!
//! Each begins with the fence: an epoch that another owner has raised means that this one is out.
//! A write checks everything before its first change, so that what it answers in place of "done" changed nothing; its number in its lane tells a write that was carried out from one that was lost on the way.

use redis::Cmd;

/// Answers of the scripts, their first element.
pub(crate) const DONE: &str = "done";
pub(crate) const FENCED: &str = "fenced";
pub(crate) const SEQUENCE: &str = "sequence";

/// How many arguments one command in a script is given: Lua's stack holds about 8,000.
pub(crate) const ARGS_MAX: usize = 4_000;

/// Takes the fence, unless another did so meanwhile; tells where the lanes are.
/// What was lost before counts no more from here on: who claims has accepted it.
///
/// KEYS: owner, lanes, two to try. ARGV: token, the epoch that was seen, format, the loss that was seen.
const CLAIM: &str = r"
local epoch = redis.call('HGET', KEYS[1], 'epoch') or '0'
local token = redis.call('HGET', KEYS[1], 'token') or ''
if token ~= ARGV[1] then
  if epoch ~= ARGV[2] then return {'fenced', epoch} end
  if (redis.call('HGET', KEYS[1], 'lost') or '') ~= ARGV[4] then return {'fenced', epoch} end
  redis.call('HSET', KEYS[3], 'try', '1')
  redis.call('HDEL', KEYS[3], 'try')
  redis.call('ZADD', KEYS[4], 0, 'try')
  redis.call('ZREM', KEYS[4], 'try')
  redis.call('UNLINK', KEYS[3], KEYS[4])
  epoch = string.format('%.0f', tonumber(epoch) + 1)
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'token', ARGV[1], 'format', ARGV[3])
  redis.call('HDEL', KEYS[1], 'lost')
end
local answer = redis.call('HGETALL', KEYS[2])
table.insert(answer, 1, epoch)
table.insert(answer, 1, 'done')
return answer
";

/// Notes that the server holds less than it acknowledged: the next process could not know.
/// Where nothing is left there is nothing to note either: who comes next is a new node.
///
/// KEYS: owner. ARGV: epoch, what is lost.
const LOSE: &str = r"
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch or tonumber(epoch) > tonumber(ARGV[1]) then return {'fenced', epoch or ''} end
redis.call('HSETNX', KEYS[1], 'lost', ARGV[2])
return {'done'}
";

/// Carries out commands that only read.
///
/// KEYS: owner, data. ARGV: epoch, then for each command its name, key, number of arguments, arguments.
const READ: &str = r"
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= ARGV[1] then return {'fenced', epoch or ''} end
local answer, at = {'done'}, 2
while at <= #ARGV do
  local count = tonumber(ARGV[at + 2])
  answer[#answer + 1] = redis.call(ARGV[at], KEYS[tonumber(ARGV[at + 1])], unpack(ARGV, at + 3, at + 2 + count))
  at = at + 3 + count
end
return answer
";

/// Checks, then changes; a write that was carried out before is done.
///
/// KEYS: owner, lanes, data. ARGV: epoch, lane, the number before, its own number, the type of each data key, the number of checks, for each check key, field and value, then for each command its name, key, number of arguments, arguments.
const WRITE: &str = r"
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= ARGV[1] then return {'fenced', epoch or ''} end
local sequence = redis.call('HGET', KEYS[2], ARGV[2]) or '0'
if sequence == ARGV[4] then return {'done'} end
if sequence ~= ARGV[3] then return {'sequence', sequence} end
local at = 5
for key = 3, #KEYS do
  local found = redis.call('TYPE', KEYS[key]).ok
  if found ~= 'none' and found ~= ARGV[at] then return {'type', KEYS[key], found, ARGV[at]} end
  at = at + 1
end
local checks = tonumber(ARGV[at])
at = at + 1
for _ = 1, checks do
  local key = KEYS[tonumber(ARGV[at])]
  local found = redis.call('HGET', key, ARGV[at + 1]) or ''
  if found ~= ARGV[at + 2] then return {'state', key, ARGV[at + 1], found, ARGV[at + 2]} end
  at = at + 3
end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[4])
while at <= #ARGV do
  local count = tonumber(ARGV[at + 2])
  redis.call(ARGV[at], KEYS[tonumber(ARGV[at + 1])], unpack(ARGV, at + 3, at + 2 + count))
  at = at + 3 + count
end
return {'done'}
";

/// Reads rows of a log, as many as fit, at least one; a missing one is empty.
///
/// KEYS: owner, state, rows. ARGV: epoch, from, to, bytes at most, rows at most, bytes of a row that do not count.
/// Answers where the log begins and ends, then the rows.
const ROWS: &str = r"
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= ARGV[1] then return {'fenced', epoch or ''} end
local base = redis.call('HGET', KEYS[2], 'base') or '0'
local last = redis.call('HGET', KEYS[2], 'last') or '0'
local answer = {'done', base, last}
local at, to = tonumber(ARGV[2]), math.min(tonumber(ARGV[3]), tonumber(last))
if at <= tonumber(base) then return answer end
local bytes, rows = tonumber(ARGV[4]), tonumber(ARGV[5])
while at <= to and rows > 0 and bytes >= 0 do
  local row = redis.call('HGET', KEYS[3], string.format('%.0f', at)) or ''
  answer[#answer + 1] = row
  bytes = bytes - (#row - tonumber(ARGV[6]))
  rows = rows - 1
  at = at + 1
end
return answer
";

/// Reads keys in order with their values, up to a limit in rows and one in bytes, but at least one.
/// Values are read one by one: a page of keys may have values far beyond the limit.
///
/// KEYS: owner, keys, values. ARGV: epoch, the command, its two bounds, rows at most, bytes at most.
const SCAN: &str = r"
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= ARGV[1] then return {'fenced', epoch or ''} end
local answer, start = {'done'}, ARGV[3]
local rows, bytes = tonumber(ARGV[5]), tonumber(ARGV[6])
while true do
  local keys = redis.call(ARGV[2], KEYS[2], start, ARGV[4], 'LIMIT', 0, math.min(rows, 128))
  if #keys == 0 then return answer end
  for _, key in ipairs(keys) do
    local value = redis.call('HGET', KEYS[3], key)
    answer[#answer + 1] = key
    answer[#answer + 1] = value
    rows = rows - 1
    bytes = bytes - #key - #(value or '')
    if rows <= 0 or bytes <= 0 then return answer end
  end
  start = '(' .. keys[#keys]
end
";

/// A script, by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    Claim,
    Lose,
    Read,
    Write,
    Rows,
    Scan,
}

impl Script {
    /// In the order of their declaration.
    pub(crate) const ALL: [Script; 6] =
        [Script::Claim, Script::Lose, Script::Read, Script::Write, Script::Rows, Script::Scan];

    pub(crate) fn text(self) -> &'static str {
        match self {
            Script::Claim => CLAIM,
            Script::Lose => LOSE,
            Script::Read => READ,
            Script::Write => WRITE,
            Script::Rows => ROWS,
            Script::Scan => SCAN,
        }
    }
}

/// A call of a script.
pub(crate) struct Call {
    pub(crate) script: Script,
    pub(crate) keys: Vec<String>,
    pub(crate) args: Vec<Vec<u8>>,
}

impl Call {
    /// The command, for a server that knows the script under this hash.
    pub(crate) fn command(&self, hash: &str) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(hash).arg(self.keys.len()).arg(&self.keys);
        for arg in &self.args {
            command.arg(arg.as_slice());
        }
        command
    }
}

/// What a data key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Hash,
    Sorted,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Hash => "hash",
            Kind::Sorted => "zset",
        }
    }
}

/// Commands that belong together, and what must be so for them to be carried out.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    keys: Vec<(String, Kind)>,
    checks: Vec<Vec<u8>>,
    commands: Vec<Vec<u8>>,
}

/// A data key's place among the keys: two come before all of them, the owner and the lanes.
const KEYS_BEFORE: usize = 3;

impl Commands {
    fn key(&mut self, key: &str, kind: Kind) -> Vec<u8> {
        let at = self.keys.iter().rposition(|(other, _)| other == key).unwrap_or_else(|| {
            self.keys.push((key.to_owned(), kind));
            self.keys.len() - 1
        });
        (at + KEYS_BEFORE).to_string().into_bytes()
    }

    /// Requires that a field of a hash has this value; an empty one stands for none.
    pub(crate) fn check(&mut self, key: &str, field: &str, value: &str) {
        let key = self.key(key, Kind::Hash);
        self.checks.extend([key, field.into(), value.into()]);
    }

    /// Adds a command; at most [`ARGS_MAX`] arguments.
    pub(crate) fn push(&mut self, name: &str, key: &str, kind: Kind, args: impl IntoIterator<Item = Vec<u8>>) {
        let key = self.key(key, kind);
        self.commands.extend([name.into(), key]);
        let count_at = self.commands.len();
        self.commands.push(Vec::new());
        self.commands.extend(args);
        let count = self.commands.len() - count_at - 1;
        debug_assert!(count <= ARGS_MAX, "{count} arguments do not fit on Lua's stack");
        self.commands[count_at] = count.to_string().into_bytes();
    }

    /// Adds as many commands as the arguments need.
    pub(crate) fn push_all(&mut self, name: &str, key: &str, kind: Kind, args: Vec<Vec<u8>>) {
        let mut args = args.into_iter().peekable();
        while args.peek().is_some() {
            let portion: Vec<Vec<u8>> = args.by_ref().take(ARGS_MAX).collect();
            self.push(name, key, kind, portion);
        }
    }

    /// Sets a field of a hash.
    pub(crate) fn set(&mut self, key: &str, field: &str, value: impl Into<Vec<u8>>) {
        self.push("HSET", key, Kind::Hash, [field.into(), value.into()]);
    }

    /// Deletes a key; the server frees its memory beside its work.
    pub(crate) fn unlink(&mut self, key: &str, kind: Kind) {
        self.push("UNLINK", key, kind, []);
    }

    fn keys(&self, owner: &str, lanes: &str) -> Vec<String> {
        let before = [owner, lanes].into_iter().map(str::to_owned);
        before.chain(self.keys.iter().map(|(key, _)| key.clone())).collect()
    }

    /// The call that reads.
    pub(crate) fn read(self, owner: &str, lanes: &str, epoch: &str) -> Call {
        let keys = self.keys(owner, lanes);
        let args = [epoch.into()].into_iter().chain(self.commands).collect();
        Call { script: Script::Read, keys, args }
    }

    /// The call that writes, as number `sequence` of its lane.
    pub(crate) fn write(self, owner: &str, lanes: &str, epoch: &str, lane: &str, sequence: u64) -> Call {
        let keys = self.keys(owner, lanes);
        let number = |number: u64| number.to_string().into_bytes();
        let mut args: Vec<Vec<u8>> = vec![epoch.into(), lane.into(), number(sequence - 1), number(sequence)];
        args.extend(self.keys.iter().map(|(_, kind)| kind.name().into()));
        args.push(number(self.checks.len() as u64 / 3));
        args.extend(self.checks.into_iter().chain(self.commands));
        Call { script: Script::Write, keys, args }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(args: &[Vec<u8>]) -> Vec<&str> {
        args.iter().map(|arg| std::str::from_utf8(arg).unwrap()).collect()
    }

    #[test]
    fn a_write_says_what_it_expects_and_what_it_changes() {
        let mut commands = Commands::default();
        commands.check("h", "last", "7");
        commands.set("h", "last", "8");
        commands.push("ZADD", "z", Kind::Sorted, ["0".into(), "k".into()]);
        let call = commands.write("o", "l", "3", "log", 5);
        assert_eq!(call.keys, ["o", "l", "h", "z"]);
        let expected = [
            "3", "log", "4", "5", "hash", "zset", "1", "3", "last", "7", "HSET", "3", "2", "last", "8", "ZADD", "4",
            "2", "0", "k",
        ];
        assert_eq!(texts(&call.args), expected);
    }

    #[test]
    fn many_arguments_are_several_commands() {
        let mut commands = Commands::default();
        commands.push_all("HDEL", "h", Kind::Hash, vec![b"x".to_vec(); ARGS_MAX + 1]);
        let call = commands.read("o", "l", "1");
        assert_eq!(call.args.len(), 1 + 3 + ARGS_MAX + 3 + 1);
        assert_eq!(texts(&call.args[1..4]), ["HDEL", "3", "4000"]);
    }
}
