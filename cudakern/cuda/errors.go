//go:build cuda && cgo

package cuda

import (
	"fmt"
	"reflect"
	"strings"

	"colonnade/cudakern"
)

// Error is a call of the driver that failed.
type Error struct {
	Call   string // "cuLaunchKernel"
	Kernel string // for launches and modules, else ""
	Detail string // shapes, sizes: what the call was about
	Code   int    // the driver's CUresult
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Call)
	if e.Kernel != "" {
		b.WriteString(" " + e.Kernel)
	}
	if e.Detail != "" {
		b.WriteString(" (" + e.Detail + ")")
	}
	fmt.Fprintf(&b, ": %s (%d)", codeName(e.Code), e.Code)
	return b.String()
}

// unusable is why a GPU cannot be driven, in its own words; it is ErrUnsupported without saying so.
type unusable struct{ words string }

func (u *unusable) Error() string { return u.words }
func (u *unusable) Unwrap() error { return cudakern.ErrUnsupported }

func cannot(format string, args ...any) error { return &unusable{fmt.Sprintf(format, args...)} }

// Unwrap is the error of package cudakern that a caller decides on, nil if there is none for the code.
func (e *Error) Unwrap() error {
	switch {
	case sticky(e.Code):
		return cudakern.ErrLost
	case e.Code == codeOutOfMemory:
		return cudakern.ErrMemory
	}
	switch e.Code {
	case codeNotSupported, codeInvalidPTX, codeUnsupportedPTX, codeNoBinary, codeNoDevice, codeStubLibrary,
		codePeerUnsupported, codeJITNotFound, codeMismatch, codeCompat:
		return cudakern.ErrUnsupported
	}
	return nil
}

// Codes of the driver (CUresult) that something is decided by.
const (
	codeOutOfMemory     = 2
	codeNotInitialized  = 3
	codeDeinitialized   = 4
	codeStubLibrary     = 34
	codeUnavailable     = 46
	codeNoDevice        = 100
	codeInvalidDevice   = 101
	codeNoBinary        = 209
	codePeerUnsupported = 217
	codeInvalidPTX      = 218
	codeJITNotFound     = 221
	codeUnsupportedPTX  = 222
	codeNotFound        = 500
	codeNotReady        = 600
	codePeerEnabled     = 704
	codeNotSupported    = 801
	codeMismatch        = 803
	codeCompat          = 804
)

// sticky says whether a code means that the context is dead: every later call of the process on this GPU returns it.
func sticky(code int) bool {
	switch code {
	case 46, // DEVICE_UNAVAILABLE
		214, // ECC_UNCORRECTABLE
		220, // NVLINK_UNCORRECTABLE
		226, // CONTAINED
		700, // ILLEGAL_ADDRESS
		702, // LAUNCH_TIMEOUT
		709, // CONTEXT_IS_DESTROYED
		710, // ASSERT
		714, // HARDWARE_STACK_ERROR
		715, // ILLEGAL_INSTRUCTION
		716, // MISALIGNED_ADDRESS
		717, // INVALID_ADDRESS_SPACE
		718, // INVALID_PC
		719, // LAUNCH_FAILED
		721, // TENSOR_MEMORY_LEAK
		999: // UNKNOWN: what the driver says when a GPU has fallen off the bus
		return true
	}
	return false
}

// codeOf is the driver's code in an error of gorgonia.org/cu, whose type is not exported; -1 if it is none.
func codeOf(err error) int {
	if v := reflect.ValueOf(err); v.IsValid() && v.CanInt() {
		return int(v.Int())
	}
	return -1
}

// failed is the error of a call, nil if err is nil.
func failed(err error, call, detail string) error {
	if err == nil {
		return nil
	}
	code := codeOf(err)
	if code < 0 {
		return fmt.Errorf("%s (%s): %w", call, detail, err)
	}
	return &Error{Call: call, Detail: detail, Code: code}
}

// first is the first of several errors.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
