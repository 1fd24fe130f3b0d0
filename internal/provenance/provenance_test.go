// SPDX-License-Identifier: MPL-2.0

package provenance

import (
	"bytes"
	"encoding/json"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

func written(t *testing.T) map[string]any {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, Write(&out, "a-command", "v1.2.3"))
	var answer map[string]any
	require.NoError(t, json.Unmarshal(out.Bytes(), &answer))
	return answer
}

func stamp(t *testing.T, r, c, d string) {
	beforeR, beforeC, beforeD := revision, commitTime, dirty
	t.Cleanup(func() { revision, commitTime, dirty = beforeR, beforeC, beforeD })
	revision, commitTime, dirty = r, c, d
}

func TestUnknownCommitIsLeftOutAndNotCalledClean(t *testing.T) {
	stamp(t, "", "", "")
	answer := written(t)
	require.Equal(t, "a-command", answer["name"])
	require.Equal(t, "v1.2.3", answer["version"])
	require.Equal(t, runtime.Version(), answer["go_version"])
	require.Equal(t, runtime.GOOS+"/"+runtime.GOARCH, answer["platform"])
	for _, field := range []string{"revision", "commit_time", "dirty"} {
		require.NotContains(t, answer, field)
	}
}

func TestStampedCommitIsTold(t *testing.T) {
	for d, want := range map[string]bool{"true": true, "false": false} {
		stamp(t, "0123456789abcdef0123456789abcdef01234567", "2026-11-26T03:04:05Z", d)
		answer := written(t)
		require.Equal(t, "0123456789abcdef0123456789abcdef01234567", answer["revision"])
		require.Equal(t, "2026-11-26T03:04:05Z", answer["commit_time"])
		require.Equal(t, want, answer["dirty"])
	}
}
