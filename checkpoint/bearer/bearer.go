// Package bearer is the secret that a program's HTTP port asks for, sent as RFC 6750 (section 2.1) says. Both programs
// have the flags --http and --http-token-file.
package bearer

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
)

// Challenge is what WWW-Authenticate says to a request without the token, Want what is said in words.
const (
	Challenge = `Bearer realm="colonnade"`
	Want      = "give the token of --http-token-file: Authorization: Bearer TOKEN"
)

// least is how long a token must be: nobody guesses as much.
const least = 16

// Misuse is an error of the command line; others are of the file.
type Misuse struct{ error }

func (m Misuse) Unwrap() error { return m.error }

func misuse(format string, args ...any) error { return Misuse{fmt.Errorf(format, args...)} }

// Loopback says whether nobody but this machine reaches an address.
func Loopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// Read reads the token for a port, which was asked for as address and listens at `at`, from a file; file may be empty.
// Only a port that nobody but this machine reaches may do without: then there is no token.
func Read(file, address string, at net.Addr) (string, error) {
	if file == "" {
		if !Loopback(at) {
			return "", misuse("--http %s can be reached by others; give a file with a secret to ask them for: "+
				"--http-token-file FILE", address)
		}
		return "", nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("--http-token-file: %w; make one with: openssl rand -hex 32 > FILE", err)
	}
	token := strings.TrimSpace(string(b))
	if len(token) < least || strings.ContainsAny(token, " \t\r\n") {
		return "", misuse("--http-token-file %s: a token is one word of at least %d characters; make one with: "+
			"openssl rand -hex 32 > FILE", file, least)
	}
	return token, nil
}

// Admits says whether a request has the token; without one every request does. The comparison takes as long whatever is
// wrong.
func Admits(token string, r *http.Request) bool {
	if token == "" {
		return true
	}
	given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1 && ok
}
