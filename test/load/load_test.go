// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

func TestTallyReachesItsGoal(t *testing.T) {
	t.Parallel()
	counts := newTally(2)
	for _, status := range []int{http.StatusOK, http.StatusTooManyRequests} {
		counts.observe(simulator.Call{Path: deletePath, Status: status})
		counts.observe(simulator.Call{Path: createPath, Status: status})
	}
	select {
	case <-counts.reached:
		require.Fail(t, "one deletion has succeeded, not two")
	default:
	}
	counts.observe(simulator.Call{Path: deletePath, Status: http.StatusOK})
	<-counts.reached
	require.Equal(t, 3, counts.count(deletePath, 0))
	require.Equal(t, 3, counts.count("", http.StatusOK))
}

// TestFit gives memory that jumps during the warm-up and grows by 3 bytes for each mint afterwards.
func TestFit(t *testing.T) {
	t.Parallel()
	var samples []sample
	for mints := int64(0); mints <= 1000; mints += 10 {
		s := sample{time.Duration(mints) * time.Second, mints, 0, 5e6 + 3*mints}
		if mints < 200 {
			s.anon = 1e6
		}
		samples = append(samples, s)
	}
	fitted := fit(samples, warmUp)
	require.InDelta(t, 3, fitted.slope, 1e-6)
	require.InDelta(t, 3*800, fitted.growth(), 1e-3)
	require.InDelta(t, 5e6+3000, fitted.value(1000), 1e-3)
	require.EqualValues(t, 100, at(samples, 0.1).mints)

	alone := fit(samples[:1], warmUp)
	require.Zero(t, alone.growth(), "one sample is no growth")
}

func TestGrowthFails(t *testing.T) {
	t.Parallel()
	run := &soakRun{soakSettings: soakSettings{growth: 1000}}
	require.NoError(t, run.check(line{slope: 1, from: 0, to: 1000}))
	require.ErrorContains(t, run.check(line{slope: 2, from: 0, to: 1000}), "grew")
}

func TestChartIsXML(t *testing.T) {
	t.Parallel()
	for _, samples := range [][]sample{
		{{0, 0, 20e6, 10e6}},
		{{0, 0, 20e6, 10e6}, {time.Second, 12345, 30e6, 12e6}, {2 * time.Second, 1e6, 31e6, 12e6}},
	} {
		var chart, table bytes.Buffer
		require.NoError(t, writeChart(&chart, "A title", samples, fit(samples, warmUp)))
		require.NotContains(t, chart.String(), "NaN")
		require.NotContains(t, chart.String(), "%!")
		decoder := xml.NewDecoder(&chart)
		for {
			_, err := decoder.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
		}
		require.NoError(t, writeCSV(&table, samples))
		require.Equal(t, len(samples)+1, bytes.Count(table.Bytes(), []byte("\n")))
	}
}

func TestMemoryOf(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("needs Linux's /proc")
	}
	rss, anon, err := memoryOf(os.Getpid())
	require.NoError(t, err)
	require.Greater(t, rss, anon)
	require.Greater(t, anon, int64(1<<20))
}

func TestSettings(t *testing.T) {
	for _, name := range []string{"LEASES", "CLIENTS", "SEED", "LIMIT", "DURATION", "MINTS", "SAMPLE", "GROWTH", "OUT"} {
		t.Setenv(name, "")
	}
	env := &environment{}
	require.Equal(t, stormSettings{10_000, 64, 1, 2 * time.Minute}, stormSettingsOf(env))
	require.Equal(t, 10*time.Minute, soakSettingsOf(env).duration)
	require.NoError(t, env.err)

	t.Setenv("MINTS", "1000")
	require.Zero(t, soakSettingsOf(env).duration, "the mints end the run")
	require.NoError(t, env.err)
	t.Setenv("LEASES", "-1")
	stormSettingsOf(env)
	require.ErrorContains(t, env.err, `LEASES is "-1"`)
}
