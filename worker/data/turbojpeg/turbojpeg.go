//go:build turbojpeg && cgo

package turbojpeg

/*
#cgo LDFLAGS: -lturbojpeg
#include <stdlib.h>
#include <turbojpeg.h>
#if defined(__has_include)
#if __has_include(<jconfig.h>)
#include <stdio.h>
#include <jconfig.h>
#endif
#endif
#define COLONNADE_TEXT(x) #x
#define COLONNADE_VERSION(x) COLONNADE_TEXT(x)
#ifdef LIBJPEG_TURBO_VERSION
static const char *colonnade_version(void) { return COLONNADE_VERSION(LIBJPEG_TURBO_VERSION); }
#else
static const char *colonnade_version(void) { return ""; }
#endif
*/
import "C"

import (
	"errors"
	"fmt"
	"unsafe"
)

// ErrOther is a JPEG that another decoder must judge: CMYK, or one that the library only warns of. What it makes of a
// file that is cut short would be grey from there on.
var ErrOther = errors.New("not for this decoder")

// Version is that of the library whose headers this was built with; empty: they do not say.
func Version() string { return C.GoString(C.colonnade_version()) }

// handles are decoders that nobody uses now. The library's keep tables and memory from one picture to the next.
var handles = make(chan C.tjhandle, 64)

func take() C.tjhandle {
	select {
	case h := <-handles:
		return h
	default:
		return C.tjInitDecompress()
	}
}

func giveBack(h C.tjhandle) {
	select {
	case handles <- h:
	default:
		C.tjDestroy(h)
	}
}

// Decode decodes a JPEG of at most so many pixels to interleaved RGB, or to grey where the file is grey. Exact
// integer transforms and plain replication of chroma are asked for, as in Go's image/jpeg: the two differ by rounding.
func Decode(data []byte, most int) (pixels []byte, height, width int, grey bool, err error) {
	h := take()
	if h == nil || len(data) == 0 {
		return nil, 0, 0, false, ErrOther
	}
	defer giveBack(h)
	src := (*C.uchar)(unsafe.Pointer(unsafe.SliceData(data)))
	var w, ht, sampling, space C.int
	if C.tjDecompressHeader3(h, src, C.ulong(len(data)), &w, &ht, &sampling, &space) != 0 {
		return nil, 0, 0, false, ErrOther
	}
	width, height, grey = int(w), int(ht), space == C.TJCS_GRAY
	switch {
	case width < 1 || height < 1 || width > most/height:
		return nil, 0, 0, false, fmt.Errorf("claims %dx%d pixels, more than %d", width, height, most)
	case space != C.TJCS_GRAY && space != C.TJCS_YCbCr && space != C.TJCS_RGB:
		return nil, 0, 0, false, ErrOther
	}
	format, each := C.int(C.TJPF_RGB), 3
	if grey {
		format, each = C.TJPF_GRAY, 1
	}
	pixels = make([]byte, width*height*each)
	dst := (*C.uchar)(unsafe.Pointer(unsafe.SliceData(pixels)))
	if C.tjDecompress2(h, src, C.ulong(len(data)), dst, w, C.int(width*each), ht, format,
		C.TJFLAG_ACCURATEDCT|C.TJFLAG_FASTUPSAMPLE) != 0 {
		return nil, 0, 0, false, ErrOther
	}
	return pixels, height, width, grey, nil
}
