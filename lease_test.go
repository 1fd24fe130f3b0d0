// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// TestLeasesHaveTheFormOfTheirJSON shows that what is written and read without JSON is what JSON would have made of it.
func TestLeasesHaveTheFormOfTheirJSON(t *testing.T) {
	t.Parallel()
	zone := time.FixedZone("", -3600)
	full := lease{
		origin: origin{Host: "https://example.com", WorkspaceID: "1", AccountID: "a", OwnerID: "2"}, CredentialType: "service_principal", ID: "abc", Role: "etl",
		ServicePrincipalID: "77", TTL: 600, Expires: time.Date(2026, 1, 2, 3, 4, 5, 600, zone), Dead: time.Now(), Record: "r",
		Delivered: &writtenSecret{secretRef: secretRef{Scope: "s", Key: "k"}, Updated: time.UnixMilli(1).UTC()},
	}
	plain := full
	plain.AccountID, plain.ServicePrincipalID, plain.Record, plain.Delivered = "", "", "", nil
	for _, l := range []lease{full, plain, {}} {
		var want map[string]any
		require.NoError(t, decodeMap(l, &want))
		internal, err := l.internalData()
		require.NoError(t, err)
		require.Equal(t, want, internal)
	}

	internal, err := plain.internalData()
	require.NoError(t, err)
	internal["secret_type"] = secretTypeCredential
	require.True(t, new(lease).read(internal), "the usual lease is read without JSON")
	internal["account_id"], internal["service_principal_id"], internal["record"], internal["delivered"] = "a", "77", "r", nil
	odd := []any{nil, "", "x", 3.0, -1.5, 1e300, true, map[string]any{}, []any{}, "2026-01-02T03:04:05Z", "2026-01-02 03:04:05", "0001-01-01T00:00:00Z"}
	for name := range internal {
		for _, value := range append(odd, "absent") {
			changed := maps.Clone(internal)
			if changed[name] = value; value == "absent" {
				delete(changed, name)
			}
			want := new(lease)
			wantErr := decodeMap(changed, want)
			got, err := leaseOf(&logical.Secret{InternalData: changed})
			what := fmt.Sprintf("%s: %v", name, value)
			if wantErr != nil || want.CredentialType == "" || want.ID == "" || want.Expires.IsZero() || want.Dead.IsZero() {
				require.Error(t, err, what)
				continue
			}
			require.NoError(t, err, what)
			require.True(t, want.Expires.Equal(got.Expires) && want.Dead.Equal(got.Dead), what)
			got.Expires, got.Dead = want.Expires, want.Dead
			require.Equal(t, want, got, what)
		}
	}
}
