package cli

import "runtime/debug"

// Unversioned is the version of a program whose build has recorded none.
const Unversioned = "unversioned"

// given is set by the linker where the build has a copy of the source without its version control, as images have.
var given string

// Version is the program's version control revision, if the build recorded one.
func Version() string {
	if given != "" {
		return given
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return Unversioned
}
