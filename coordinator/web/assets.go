package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"sync"
)

// dist is the page as Vite has built it from app; scripts/gen writes it.
//
//go:embed dist
var dist embed.FS

// asset is a file of the page, as it is and compressed.
type asset struct {
	kind, tag     string
	plain, zipped []byte
}

// kinds are the content types of the page's files: what the machine says of extensions differs from one to the next.
var kinds = map[string]string{".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8",
	".css": "text/css; charset=utf-8", ".svg": "image/svg+xml", ".txt": "text/plain; charset=utf-8"}

// pageAssets are the page's files by path, "" the page itself.
var pageAssets = sync.OnceValue(func() map[string]asset {
	out := map[string]asset{}
	err := fs.WalkDir(dist, "dist", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := dist.ReadFile(p)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(b)
		a := asset{kind: kinds[path.Ext(p)], tag: `"` + hex.EncodeToString(sum[:8]) + `"`, plain: b}
		var zipped bytes.Buffer
		z, err := gzip.NewWriterLevel(&zipped, gzip.BestCompression)
		if err != nil {
			return err
		}
		if _, err := z.Write(b); err != nil {
			return err
		}
		if err := z.Close(); err != nil {
			return err
		}
		a.zipped = zipped.Bytes()
		name := strings.TrimPrefix(p, "dist/")
		if name == "index.html" {
			name = ""
		}
		out[name] = a
		return nil
	})
	if err != nil {
		panic("web: embedded files cannot be read: " + err.Error()) // they are in the program
	}
	return out
})

// assets serves the page: any path without a file is the page itself, which finds out what to show.
func assets() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.Error(w, "the page is only read", http.StatusMethodNotAllowed)
			return
		}
		a, ok := pageAssets()[strings.TrimPrefix(r.URL.Path, "/")]
		if !ok && path.Ext(r.URL.Path) != "" && !strings.HasPrefix(r.URL.Path, "/jobs/") {
			http.NotFound(w, r)
			return
		}
		if !ok {
			a = pageAssets()[""]
		}
		h := w.Header()
		h.Set("Content-Type", a.kind)
		h.Set("Cache-Control", "no-cache") // asked for again, answered with 304 while it is the same
		h.Set("ETag", a.tag)
		h.Set("Vary", "Accept-Encoding")
		if r.Header.Get("If-None-Match") == a.tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			h.Set("Content-Encoding", "gzip")
			_, _ = w.Write(a.zipped) // whom it cannot be told does not listen
			return
		}
		_, _ = w.Write(a.plain)
	})
}
