// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"fmt"
	"math"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// lease is the internal data of a Vault lease: all that renewing and revoking need, and no secret. Vault stores it for the life
// of the lease, so leases of earlier versions must remain readable.
type lease struct {
	origin
	CredentialType string `json:"credential_type"`
	ID             string `json:"id"`   // identifies the credential for revoking
	Role           string `json:"role"` // for renewals and messages; revoking never needs it

	ServicePrincipalID string `json:"service_principal_id,omitempty"` // owner of an OAuth secret

	TTL     int64     `json:"ttl"`     // seconds, as decided at creation
	Expires time.Time `json:"expires"` // the latest end of a renewed lease
	Dead    time.Time `json:"dead"`    // from then on there is nothing to revoke; later than Expires by the duration of the create

	Delivered *writtenSecret `json:"delivered,omitempty"` // the secret that it was delivered to, nil for none
	Record    string         `json:"record,omitempty"`    // id of the lease's record, empty without a delivery and for leases of v0.1.0

	Instance string `json:"instance,omitempty"` // that of the process which minted it, see backend.instance; empty for leases of v0.1.0
}

// leaseText is a field of a lease that holds a text, by its name in JSON.
type leaseText struct {
	name      string
	value     *string
	omitempty bool
}

func (l *lease) texts() [10]leaseText {
	return [...]leaseText{
		{"host", &l.Host, false}, {"workspace_id", &l.WorkspaceID, false}, {"account_id", &l.AccountID, true}, {"owner_id", &l.OwnerID, false},
		{"credential_type", &l.CredentialType, false}, {"id", &l.ID, false}, {"role", &l.Role, false},
		{"service_principal_id", &l.ServicePrincipalID, true}, {"record", &l.Record, true}, {"instance", &l.Instance, true},
	}
}

// internalData returns the lease in the form that Vault stores, which is that of its JSON. Only what is rare goes by way of JSON, since that
// took longer than all that is decided about a mint.
func (l *lease) internalData() (map[string]any, error) {
	data := make(map[string]any, 16)
	for _, text := range l.texts() {
		if *text.value != "" || !text.omitempty {
			data[text.name] = *text.value
		}
	}
	data["ttl"], data["expires"], data["dead"] = float64(l.TTL), l.Expires.Format(time.RFC3339Nano), l.Dead.Format(time.RFC3339Nano)
	if l.Delivered == nil {
		return data, nil
	}
	delivered := map[string]any{}
	data["delivered"] = delivered
	return data, decodeMap(l.Delivered, &delivered)
}

// read reads the form of internalData. It returns false for a lease with a delivered secret, and for values of another type.
func (l *lease) read(data map[string]any) bool {
	for _, text := range l.texts() {
		value, stored := data[text.name]
		var valid bool
		if *text.value, valid = value.(string); stored && !valid {
			return false
		}
	}
	ttl, isNumber := data["ttl"].(float64)
	expires, isText := data["expires"].(string)
	dead, isTextToo := data["dead"].(string)
	if !isNumber || !isText || !isTextToo || data["delivered"] != nil || ttl != math.Trunc(ttl) || math.Abs(ttl) > maxSafeInteger {
		return false
	}
	l.TTL = int64(ttl)
	return l.Expires.UnmarshalText([]byte(expires)) == nil && l.Dead.UnmarshalText([]byte(dead)) == nil
}

// leaseOf decodes and checks the internal data of a Vault lease.
func leaseOf(secret *logical.Secret) (*lease, error) {
	l := new(lease)
	if !l.read(secret.InternalData) {
		*l = lease{}
		if err := decodeMap(secret.InternalData, l); err != nil {
			return nil, fmt.Errorf("the lease's internal data cannot be read: %w", err)
		}
	}
	if l.CredentialType == "" || l.ID == "" || l.Expires.IsZero() || l.Dead.IsZero() {
		return nil, fmt.Errorf("the lease's internal data lacks credential_type, id, expires or dead")
	}
	return l, nil
}
