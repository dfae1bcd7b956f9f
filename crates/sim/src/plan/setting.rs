//! Numbers with names.

use std::time::Duration;

use crate::Bug;

/// Something that a line of a file can say.
pub(super) trait Setting {
    /// As text.
    fn show(&self) -> String;
    /// From text; false when it is none of these.
    fn set(&mut self, text: &str) -> bool;
}

/// Settings by name, in the order in which they are written.
#[derive(Default)]
pub(super) struct Settings<'a>(Vec<(&'static str, &'a mut dyn Setting)>);

impl<'a> Settings<'a> {
    pub(super) fn add(&mut self, name: &'static str, setting: &'a mut dyn Setting) -> &mut Settings<'a> {
        self.0.push((name, setting));
        self
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &dyn Setting)> {
        self.0.iter().map(|(name, setting)| (*name, &**setting))
    }

    /// Sets one of them.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let Some((_, setting)) = self.0.iter_mut().find(|(known, _)| *known == name) else {
            let names: Vec<&str> = self.0.iter().map(|(name, _)| *name).collect();
            return Err(format!("expected one of {}; got \"{name}\"", names.join(", ")));
        };
        let before = setting.show();
        if setting.set(value) {
            return Ok(());
        }
        Err(format!("{name}: expected something like {before}, got \"{value}\""))
    }
}

/// What reads back from what it prints.
macro_rules! plain {
    ($($kind:ty),*) => {$(
        impl Setting for $kind {
            fn show(&self) -> String {
                self.to_string()
            }

            fn set(&mut self, text: &str) -> bool {
                text.parse().map(|read| *self = read).is_ok()
            }
        }
    )*};
}

plain!(u64, usize, bool, f64);

/// Seconds with nine decimals: exact, and easy on the eyes.
impl Setting for Duration {
    fn show(&self) -> String {
        format!("{}.{:09}", self.as_secs(), self.subsec_nanos())
    }

    fn set(&mut self, text: &str) -> bool {
        Duration::read(text).map(|read| *self = read).is_some()
    }
}

/// Reading of durations, also where there is none to set.
pub(super) trait Read: Sized {
    fn read(text: &str) -> Option<Self>;
}

impl Read for Duration {
    fn read(text: &str) -> Option<Duration> {
        let (seconds, decimals) = text.split_once('.').unwrap_or((text, ""));
        if decimals.len() > 9 || !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let nanos = format!("{decimals:0<9}").parse().ok()?;
        // Later than this is no time of a run.
        let seconds = seconds.parse().ok().filter(|seconds| *seconds < 1 << 32)?;
        Some(Duration::new(seconds, nanos))
    }
}

/// A number, or none at all.
macro_rules! number_or {
    ($kind:ty, $none:literal) => {
        impl Setting for Option<$kind> {
            fn show(&self) -> String {
                self.map_or_else(|| $none.into(), |number| number.to_string())
            }

            fn set(&mut self, text: &str) -> bool {
                *self = text.parse().ok();
                self.is_some() || text == $none
            }
        }
    };
}

number_or!(usize, "any");
number_or!(u32, "none");

impl Setting for Option<Bug> {
    fn show(&self) -> String {
        self.map_or_else(|| "none".into(), |bug| bug.to_string())
    }

    fn set(&mut self, text: &str) -> bool {
        *self = text.parse().ok();
        self.is_some() || text == "none"
    }
}
