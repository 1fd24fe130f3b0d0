// SPDX-License-Identifier: MPL-2.0

package client

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestWholeNumbersComeInTwoForms shows that numbers are read as the SDK reads them, and nothing else is taken for one.
func TestWholeNumbersComeInTwoForms(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{"1772366400000": 1772366400000, `"1772366400000"`: 1772366400000, "-1": -1, `"-1"`: -1, "null": 0, "0": 0} {
		var got struct{ N wholeNumber }
		require.NoError(t, json.Unmarshal([]byte(`{"N":`+text+`}`), &got), text)
		require.Equal(t, wholeNumber(want), got.N, text)
	}
	for _, text := range []string{`""`, `"x"`, "1.5", "1e3", "true", "{}", "[1]", "99999999999999999999", `"1 "`} {
		var got struct{ N wholeNumber }
		require.Error(t, json.Unmarshal([]byte(`{"N":`+text+`}`), &got), text)
	}
}
