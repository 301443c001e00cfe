//! The real libuci, one context per text.

use std::ffi::{CStr, CString, c_char};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use libuci_sys::{
    uci_alloc_context, uci_context, uci_element, uci_free_context, uci_list, uci_load, uci_option,
    uci_option_type_UCI_TYPE_STRING, uci_package, uci_section,
};

use crate::{Read, Section};

/// Reads the text with `uci_load`; the error is libuci's number.
pub fn load(text: &[u8]) -> Result<Vec<Section>, i32> {
    let mut context = Context::new();
    let package = context.load(text)?;
    // SAFETY: libuci's lists hold elements of the kind that their head says, and live as long as
    // the context.
    unsafe { elements(&raw const (*package).sections).map(|element| section(element)).collect() }
}

/// The name under which libuci knows the last section of the text.
pub fn name_of_last_section(text: &[u8]) -> String {
    let mut context = Context::new();
    let package = context.load(text).unwrap();
    // SAFETY: as above.
    let last = unsafe { elements(&raw const (*package).sections).last().unwrap() };
    // SAFETY: each section has a name, unnamed ones too.
    unsafe { String::from_utf8(bytes((*last).name)).unwrap() }
}

/// A context; one at a time, because libuci links each to the same static back end.
struct Context(*mut uci_context, #[allow(dead_code)] MutexGuard<'static, ()>);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

impl Context {
    fn new() -> Self {
        let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: no precondition.
        let context = unsafe { uci_alloc_context() };
        assert!(!context.is_null());
        Self(context, guard)
    }

    fn load(&mut self, text: &[u8]) -> Result<*const uci_package, i32> {
        // SAFETY: the name is a string constant; the new descriptor is owned by nobody else.
        let mut file = unsafe {
            let fd = libc::memfd_create(c"uci".as_ptr(), libc::MFD_CLOEXEC);
            assert!(fd >= 0);
            File::from_raw_fd(fd)
        };
        file.write_all(text).unwrap();
        // An absolute path, so that no saved changes of the host's are mixed in.
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        let mut package: *mut uci_package = ptr::null_mut();
        // SAFETY: all pointers are valid during the call; libuci keeps a copy of the path.
        let result = unsafe { uci_load(self.0, path.as_ptr(), &raw mut package) };
        if result == 0 {
            assert!(!package.is_null());
            Ok(package)
        } else {
            Err(result)
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: comes from uci_alloc_context and is freed once.
        unsafe { uci_free_context(self.0) }
    }
}

/// Elements of a list (each begins with its link).
unsafe fn elements(head: *const uci_list) -> impl Iterator<Item = *const uci_element> {
    // SAFETY: the caller passes the head of a well-formed circular list.
    let next = move |at: *const uci_list| unsafe { (*at).next.cast_const() };
    std::iter::successors(Some(next(head)), move |&at| Some(next(at)))
        .take_while(move |&at| at != head)
        .map(|at| at.cast())
}

unsafe fn section(element: *const uci_element) -> Result<Section, i32> {
    // SAFETY: a section begins with its element; all its pointers are valid.
    unsafe {
        let section = &*element.cast::<uci_section>();
        let text = |pointer| String::from_utf8(bytes(pointer)).unwrap();
        Ok(Section {
            kind: text(section.type_),
            name: (!section.anonymous).then(|| text(section.e.name)),
            options: elements(&raw const section.options)
                .map(|element| {
                    let option = &*element.cast::<uci_option>();
                    let value = if option.type_ == uci_option_type_UCI_TYPE_STRING {
                        Read::One(bytes(option.v.string))
                    } else {
                        let items = elements(&raw const option.v.list);
                        Read::List(items.map(|item| bytes((*item).name)).collect())
                    };
                    (text(option.e.name), value)
                })
                .collect(),
        })
    }
}

unsafe fn bytes(text: *const c_char) -> Vec<u8> {
    // SAFETY: the caller passes a C string.
    unsafe { CStr::from_ptr(text).to_bytes().to_vec() }
}
