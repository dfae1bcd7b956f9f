//! Histories of operations, from files.

use coracle_sim::linearizability::{parse_register, parse_strings};

/// Texts of both kinds.
pub(crate) fn histories(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    // What they mean has tests of its own; here it matters that they end.
    drop((parse_register(text), parse_strings(text)));
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let register = "INFO  jepsen.util - 0\t:invoke\t:write\t3\nINFO  jepsen.util - 1\t:invoke\t:read\tnil\n\
        INFO  jepsen.util - 0\t:ok\t:write\t3\nINFO  jepsen.util - 1\t:ok\t:read\t3\n\
        INFO  jepsen.util - 2\t:invoke\t:cas\t[3 4]\nINFO  jepsen.util - 2\t:info\t:cas\t:timed-out\n";
    let strings = "{:process 0, :type :invoke, :f :append, :key \"a\", :value \"b\"}\n\
        {:process 0, :type :ok, :f :append, :key \"a\", :value \"b\"}\n\
        {:process 1, :type :invoke, :f :get, :key \"a\", :value nil}\n\
        {:process 1, :type :ok, :f :get, :key \"a\", :value \"b\"}\n";
    vec![register.into(), strings.into()]
}
