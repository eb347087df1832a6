package web

import (
	"net"
	"net/http"
	"slices"
	"strings"

	"colonnade/checkpoint/bearer"
)

// ActionHeader must be in every request that changes something, with any value: a page of another origin cannot set it
// without asking first, which is refused.
const ActionHeader = "X-Colonnade-Action"

// policy lets a page load from its own origin only, and nobody frame it.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// guard refuses what does not come from where it should.
//
// The Host must be an address, localhost or a name that was given: a name of a stranger's that resolves to this machine
// (DNS rebinding) is none of those. With a token, everything but the page itself and the two probes needs it.
func (s *Server) guard(next http.Handler) http.Handler {
	var origins http.CrossOriginProtection
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Content-Security-Policy", policy)
		h.Set("Cache-Control", "no-store")
		if probe := r.URL.Path == "/healthz" || r.URL.Path == "/readyz"; probe {
			next.ServeHTTP(w, r)
			return
		}
		if !s.known(r.Host) {
			s.refuse(w, http.StatusMisdirectedRequest, "HOST", "this coordinator is not called "+r.Host+
				"; use its address, or start it with --http-host "+hostOf(r.Host))
			return
		}
		closed := r.URL.Path == "/metrics" || strings.HasPrefix(r.URL.Path, "/api/")
		if closed && !bearer.Admits(s.cfg.Token, r) {
			h.Set("WWW-Authenticate", bearer.Challenge)
			s.refuse(w, http.StatusUnauthorized, "TOKEN", bearer.Want)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			if r.Header.Get(ActionHeader) == "" || origins.Check(r) != nil {
				s.refuse(w, http.StatusForbidden, "ORIGIN", "what changes something needs the header "+ActionHeader+
					" and comes from this page or from no page")
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// known says whether a request's Host can be this coordinator's.
func (s *Server) known(host string) bool {
	name := hostOf(host)
	return name == "localhost" || net.ParseIP(name) != nil || slices.ContainsFunc(s.cfg.Hosts, func(h string) bool {
		return strings.EqualFold(h, name)
	})
}

// hostOf is a Host without its port.
func hostOf(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return strings.Trim(host, "[]")
}
