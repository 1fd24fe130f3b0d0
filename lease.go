// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	// lifetimeSkew is how much longer a credential lives at Databricks than its lease can, so that the lease ends first
	// even when the two clocks or a slow call disagree a little.
	lifetimeSkew = time.Minute

	// maxLifetime is the longest life Databricks gives a token under its default policy (Databricks guide "Monitor and
	// revoke personal access tokens", maxTokenLifetimeDays). It bounds every duration of a config or role.
	maxLifetime = 730 * 24 * time.Hour
)

// checkTTLs refuses what no lease could have. Both are seconds; 0 means unset.
func checkTTLs(ttl, maxTTL int64) error {
	for _, f := range []struct {
		field string
		value int64
	}{{keyTTL, ttl}, {keyMaxTTL, maxTTL}} {
		if f.value < 0 || f.value > int64(maxLifetime/time.Second) {
			return badField(f.field, "%ds is out of range; send 0 (unset) to %d seconds (730 days)", f.value, int64(maxLifetime/time.Second))
		}
	}
	if maxTTL > 0 && ttl > maxTTL {
		return badField(keyTTL, "%ds is longer than max_ttl, %ds; lower it or raise max_ttl", ttl, maxTTL)
	}
	return nil
}

// terms are how long a lease and its credential may live.
type terms struct {
	asked    time.Duration // what the caller asked for, 0 for nothing
	ttl      time.Duration // first duration of the lease
	maxTTL   time.Duration // longest duration of the lease, renewals included
	warnings []string      // what was shortened, and by whom
}

// lifetime is how long the credential is to live at Databricks.
func (t terms) lifetime() time.Duration { return t.maxTTL + lifetimeSkew }

// decideTerms takes what the caller asked for (0 for nothing), else the role's ttl, else the config's, else the mount's,
// and caps it by the role's max_ttl or else the config's, and by the mount's maximum.
func decideTerms(sys logical.SystemView, config *configEntry, role *roleEntry, asked time.Duration) (terms, error) {
	t := terms{asked: asked, maxTTL: effectiveMaxTTL(sys, config, role)}
	usual := seconds(firstSet(role.TTL, config.TTL))
	if usual == 0 {
		// Nobody asked for the mount's default, so capping it is nothing to warn about.
		usual = min(sys.DefaultLeaseTTL(), t.maxTTL)
	}
	var err error
	t.ttl, t.warnings, err = framework.CalculateTTL(sys, asked, usual, 0, t.maxTTL, 0, time.Time{})
	return t, err
}

func effectiveMaxTTL(sys logical.SystemView, config *configEntry, role *roleEntry) time.Duration {
	longest := min(sys.MaxLeaseTTL(), maxLifetime-lifetimeSkew)
	if set := seconds(firstSet(role.MaxTTL, config.MaxTTL)); set > 0 {
		longest = min(longest, set)
	}
	return longest
}

// grant holds the terms against the life that Databricks gave the credential, of which left is still to come, and shortens
// them where it is too short. It refuses a credential that no lease could be true of.
func (t *terms) grant(token *minted, asked, left time.Duration) error {
	left = left.Truncate(time.Second)
	switch {
	case token.lifetime <= 0:
		return logical.CodedError(http.StatusBadGateway, "Databricks made a credential that never ends, although a lifetime was asked for, so it is removed again")
	case left < time.Second:
		return logical.CodedError(http.StatusBadGateway, fmt.Sprintf("Databricks made a credential that has ended by now: %s were asked for, %s were given; check the clocks, and the maximum that the workspace allows", asked, token.lifetime))
	case token.lifetime > asked+lifetimeSkew:
		t.warnings = append(t.warnings, fmt.Sprintf("Databricks gave the credential a life of %s although %s were asked for; the lease revokes it earlier.", token.lifetime.Truncate(time.Second), asked))
	}
	if left < t.maxTTL {
		t.warnings = append(t.warnings, fmt.Sprintf("Databricks gave the credential a life of %s, so the lease can last no longer, and max_ttl of %s can't be reached.",
			token.lifetime.Truncate(time.Second), t.maxTTL))
		t.maxTTL = left
		t.ttl = min(t.ttl, left)
	}
	return nil
}

// endByItself makes the terms those of a credential that nobody can end: its lease says when it ends, whatever was asked for.
func (t *terms) endByItself(lifetime time.Duration) {
	lifetime = lifetime.Truncate(time.Second)
	wanted := t.ttl
	if t.asked > 0 {
		wanted = t.asked
	}
	if lifetime > wanted || t.asked > lifetime {
		t.warnings = append(t.warnings, fmt.Sprintf("Databricks makes access tokens that live for %s and can't be revoked, so the lease is as long, although ttl is %s.", lifetime, wanted))
	}
	t.ttl, t.maxTTL = lifetime, lifetime
}

// renewTerms decides a renewal. The credential itself can't be extended, so no promise goes past its end, whatever the role
// says by now. Vault decides the lease once more from the terms' maxTTL and the time of issue, and warns of what that caps,
// so maxTTL has to hold the credential's end as well. The error is the user's.
func renewTerms(sys logical.SystemView, config *configEntry, role *roleEntry, secret *logical.Secret, l *lease, now time.Time) (terms, error) {
	if !now.Before(l.Expires) {
		return terms{}, badField("lease", "the credential ended at Databricks at %s, so it can't be renewed; read creds/%s again", rfc3339(l.Expires), l.Role)
	}
	base := l.TTL
	if role.TTL > 0 {
		base = min(base, role.TTL)
	}
	t := terms{maxTTL: effectiveMaxTTL(sys, config, role)}
	asked := firstSet(int64(secret.Increment/time.Second), base)
	if lived := l.Expires.Sub(secret.IssueTime.Truncate(time.Second)).Truncate(time.Second); lived < t.maxTTL {
		t.maxTTL = lived
		if remaining := l.Expires.Sub(now).Truncate(time.Second); seconds(asked) > remaining {
			t.warnings = append(t.warnings, fmt.Sprintf("The credential ends at Databricks at %s and can't be extended there.", rfc3339(l.Expires)))
		}
	}
	var err error
	t.ttl, _, err = framework.CalculateTTL(sys, secret.Increment, seconds(base), 0, t.maxTTL, 0, secret.IssueTime)
	if err != nil {
		return terms{}, badField("lease", "%s; read creds/%s again", err, l.Role)
	}
	return t, nil
}

// lease is what is kept with a Vault lease: all that renewing and revoking need, and no secret.
type lease struct {
	origin
	CredentialType string `json:"credential_type"`
	ID             string `json:"id"`   // what the credential type revokes by
	Role           string `json:"role"` // for renewals and messages; revoking never needs it

	ServicePrincipalID string `json:"service_principal_id,omitempty"` // whose secret it is

	TTL     int64     `json:"ttl"`     // seconds, as decided when minted
	Expires time.Time `json:"expires"` // the latest that a renewal may promise
	Dead    time.Time `json:"dead"`    // from here on there is nothing to revoke; later than Expires by what the create took

	Delivered *writtenSecret `json:"delivered,omitempty"` // the secret that holds the credential, if any
}

// internalData is the lease in the form that Vault keeps.
func (l *lease) internalData() (map[string]any, error) {
	data := map[string]any{}
	return data, decodeMap(l, &data)
}

// leaseOf is the reverse of internalData, after Vault has stored it.
func leaseOf(secret *logical.Secret) (*lease, error) {
	l := new(lease)
	if err := decodeMap(secret.InternalData, l); err != nil {
		return nil, fmt.Errorf("the lease's internal data cannot be read: %w", err)
	}
	if l.CredentialType == "" || l.ID == "" || l.Expires.IsZero() || l.Dead.IsZero() {
		return nil, fmt.Errorf("the lease's internal data lacks credential_type, id, expires or dead")
	}
	return l, nil
}

// askedTTL is the ttl of a request, 0 for none.
func askedTTL(data *framework.FieldData) (time.Duration, error) {
	if err := checkWholeSeconds(data); err != nil {
		return 0, err
	}
	ttl := data.Get(keyTTL).(int)
	if _, sent := data.Raw[keyTTL]; sent && ttl <= 0 {
		// Where a policy demands a ttl, an empty one must not mean "for good".
		return 0, badField(keyTTL, "is not more than 0; send at least 1s, or leave it out")
	}
	return seconds(int64(ttl)), nil
}

// checkWholeSeconds refuses durations with fractions of a second, which the framework would cut off, down to 0 for "unset".
func checkWholeSeconds(data *framework.FieldData) error {
	for field, schema := range data.Schema {
		text, ok := data.Raw[field].(string)
		if !ok || schema.Type != framework.TypeDurationSecond {
			continue
		}
		if d, err := time.ParseDuration(text); err == nil && d%time.Second != 0 {
			return badField(field, "%q is not a whole number of seconds", text)
		}
	}
	return nil
}

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }

// firstSet is the first of the values that isn't 0.
func firstSet(values ...int64) int64 {
	for _, v := range values {
		if v != 0 {
			return v
		}
	}
	return 0
}

// rfc3339 is the form of every time in an answer: RFC 3339, UTC; empty for the zero time.
func rfc3339(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
