package ref_test

import (
	"testing"

	"colonnade/cudakern"
	"colonnade/cudakern/kerntest"
	"colonnade/cudakern/ref"
)

func TestConformance(t *testing.T) {
	kerntest.RunAll(t, func(testing.TB) cudakern.Device { return ref.New() })
}
