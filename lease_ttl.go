// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"cmp"
	"fmt"
	"net/http"
	"time"
	"vault-plugin-secrets-databricks/internal/credential"

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
	requested time.Duration // what the caller asked for, 0 for nothing
	ttl       time.Duration // first duration of the lease
	maxTTL    time.Duration // longest duration of the lease, renewals included
	warnings  []string      // what was shortened, and by whom
}

// lifetime is how long the credential is to live at Databricks.
func (t terms) lifetime() time.Duration { return t.maxTTL + lifetimeSkew }

// decideTerms takes what the caller asked for (0 for nothing), else the role's ttl, else the config's, else the mount's,
// and caps it by the role's max_ttl or else the config's, and by the mount's maximum.
func decideTerms(sys logical.SystemView, config *configEntry, role *roleEntry, requested time.Duration) (terms, error) {
	t := terms{requested: requested, maxTTL: effectiveMaxTTL(sys, config, role)}
	usual := seconds(cmp.Or(role.TTL, config.TTL))
	if usual == 0 {
		// Nobody asked for the mount's default, so capping it is nothing to warn about.
		usual = min(sys.DefaultLeaseTTL(), t.maxTTL)
	}
	var err error
	t.ttl, t.warnings, err = framework.CalculateTTL(sys, requested, usual, 0, t.maxTTL, 0, time.Time{})
	return t, err
}

func effectiveMaxTTL(sys logical.SystemView, config *configEntry, role *roleEntry) time.Duration {
	longest := min(sys.MaxLeaseTTL(), maxLifetime-lifetimeSkew)
	if set := seconds(cmp.Or(role.MaxTTL, config.MaxTTL)); set > 0 {
		longest = min(longest, set)
	}
	return longest
}

// capTo holds the terms against the life that Databricks gave the credential, of which left is still to come, and shortens
// them where it is too short. It refuses a credential that no lease could be true of.
func (t *terms) capTo(token *credential.Credential, requested, left time.Duration) error {
	left = left.Truncate(time.Second)
	switch {
	case token.Lifetime <= 0:
		return logical.CodedError(http.StatusBadGateway, "Databricks made a credential that never ends, although a lifetime was asked for, so it is removed again")
	case left < time.Second:
		return logical.CodedError(http.StatusBadGateway, fmt.Sprintf("Databricks made a credential that has ended by now: %s were asked for, %s were given; check the clocks, and the maximum that the workspace allows", requested, token.Lifetime))
	case token.Lifetime > requested+lifetimeSkew:
		t.warnings = append(t.warnings, fmt.Sprintf("Databricks gave the credential a life of %s although %s were asked for; the lease revokes it earlier.", token.Lifetime.Truncate(time.Second), requested))
	}
	if left < t.maxTTL {
		t.warnings = append(t.warnings, fmt.Sprintf("Databricks gave the credential a life of %s, so the lease can last no longer, and max_ttl of %s can't be reached.",
			token.Lifetime.Truncate(time.Second), t.maxTTL))
		t.maxTTL = left
		t.ttl = min(t.ttl, left)
	}
	return nil
}

// endByItself makes the terms those of a credential that nobody can end: its lease says when it ends, whatever was asked for.
func (t *terms) endByItself(lifetime time.Duration) {
	lifetime = lifetime.Truncate(time.Second)
	wanted := t.ttl
	if t.requested > 0 {
		wanted = t.requested
	}
	if lifetime > wanted || t.requested > lifetime {
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
	requested := cmp.Or(int64(secret.Increment/time.Second), base)
	if lived := l.Expires.Sub(secret.IssueTime.Truncate(time.Second)).Truncate(time.Second); lived < t.maxTTL {
		t.maxTTL = lived
		if remaining := l.Expires.Sub(now).Truncate(time.Second); seconds(requested) > remaining {
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
