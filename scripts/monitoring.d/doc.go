// Package monitoring has the tools that people watch clusters with look at a real one: Prometheus with the alerts, the
// queries of the Grafana dashboard, OpenTelemetry's collector. scripts/monitoring installs them and runs these tests.
package monitoring
