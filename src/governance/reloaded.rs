//! What an operator has written, as it was last read, while it is used and can be read again.
//!
//! Main type: [`Reloaded`]. Invariants: what is wrong never replaces what is right; of two readings at once the later counts;
//! whoever uses it never waits for more than a pointer, and goes on with what he began with. It does not know what it holds.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Something that is read from a place.
pub(super) trait Readable: Sized {
    /// Where it is, and what it must fit.
    type Source;
    /// What can be wrong with it.
    type Error;

    /// Reads it.
    fn read(source: &Self::Source) -> Result<Self, Self::Error>;

    /// Of what was read, in hexadecimal digits.
    fn digest(&self) -> &str;
}

/// What was read last, and where.
pub(super) struct Reloaded<T: Readable> {
    source: T::Source,
    current: RwLock<Arc<T>>,
    /// Held from reading until what was read is in place: who reads last decides last.
    reloading: Mutex<()>,
}

impl<T: Readable> Reloaded<T> {
    /// Reads it for the first time.
    pub(super) fn open(source: T::Source) -> Result<Self, T::Error> {
        let current = RwLock::new(Arc::new(T::read(&source)?));
        Ok(Self { source, current, reloading: Mutex::default() })
    }

    pub(super) fn source(&self) -> &T::Source {
        &self.source
    }

    /// As it was last read.
    pub(super) fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads it again. It counts once somebody who is told its digest agrees.
    pub(super) fn reload_if<E: From<T::Error>>(&self, agreed: impl FnOnce(&str) -> Result<(), E>) -> Result<(), E> {
        let _one_at_a_time = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let read = Arc::new(T::read(&self.source)?);
        agreed(read.digest())?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, sync::mpsc};

    use super::*;

    /// A number that is wrong if it is not there.
    struct Number(String);

    impl Readable for Number {
        type Source = Mutex<Option<u32>>;
        type Error = &'static str;

        fn read(source: &Self::Source) -> Result<Self, Self::Error> {
            source.lock().expect("no panic").map(|number| Self(number.to_string())).ok_or("it is not there")
        }

        fn digest(&self) -> &str {
            &self.0
        }
    }

    fn write(number: &Reloaded<Number>, written: Option<u32>) {
        *number.source().lock().expect("no panic") = written;
    }

    #[test]
    fn what_is_wrong_or_not_agreed_to_changes_nothing() {
        assert_eq!(Reloaded::<Number>::open(Mutex::new(None)).err(), Some("it is not there"));
        let number = Reloaded::<Number>::open(Mutex::new(Some(1))).expect("it is right");
        let before = number.current();
        let was_asked = Cell::new(false);
        write(&number, None);
        let wrong = number.reload_if(|_| {
            was_asked.set(true);
            Ok::<_, &str>(())
        });
        assert_eq!((wrong, was_asked.get()), (Err("it is not there"), false));
        write(&number, Some(2));
        assert_eq!(number.reload_if(|digest| if digest == "2" { Err("no") } else { Ok(()) }), Err("no"));
        assert_eq!(number.current().0, "1");
        number.reload_if(|_| Ok::<_, &str>(())).expect("it is right");
        assert_eq!((number.current().0.as_str(), before.0.as_str()), ("2", "1"), "whoever had one before keeps it");
    }

    /// Of two readings at once the later counts: it does not read before the other has ended.
    #[test]
    fn one_reads_at_a_time() {
        let number = Reloaded::<Number>::open(Mutex::new(Some(1))).expect("it is right");
        let (entered, has_entered) = mpsc::channel();
        let (go, may_go) = mpsc::channel();
        std::thread::scope(|scope| {
            let number = &number;
            let first = scope.spawn(move || {
                number.reload_if(|_| {
                    entered.send(()).expect("the test waits");
                    may_go.recv().map_err(|_| "nobody says when")
                })
            });
            has_entered.recv().expect("it is read");
            write(number, Some(2));
            let second = scope.spawn(move || number.reload_if(|_| Ok::<_, &str>(())));
            assert_eq!(number.current().0, "1", "whoever uses it does not wait");
            go.send(()).expect("it waits");
            assert_eq!((first.join().expect("no panic"), second.join().expect("no panic")), (Ok(()), Ok(())));
        });
        assert_eq!(number.current().0, "2");
    }
}
