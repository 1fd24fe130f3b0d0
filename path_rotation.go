// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"errors"
	"maps"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/automatedrotationutil"

	"vault-plugin-secrets-databricks/internal/schedule"
)

// Fields that config and static roles share.
const (
	keyRotationPeriod   = schedule.FieldPeriod
	keyRotationSchedule = schedule.FieldCron
	keyRotationWindow   = schedule.FieldWindow
	keyRotationPolicy   = "rotation_policy"
	keyDisableRotation  = "disable_automated_rotation"
	keyLastRotation     = "last_vault_rotation"
	keyNextRotation     = "next_vault_rotation"

	keyRotationFailures = "rotation_failures"
	keyRotationError    = "last_rotation_error"
	keyRotationRetry    = "next_rotation_attempt"
)

// rotationFields are the fields of a request by which Vault's plugins are told when to rotate a credential automatically.
func rotationFields() map[string]*framework.FieldSchema {
	fields := make(map[string]*framework.FieldSchema)
	automatedrotationutil.AddAutomatedRotationFieldsWithGroup(fields, "Automated rotation")
	for field, description := range map[string]string{
		keyRotationPeriod:   "Rotate automatically this long after the last rotation, a minute at least. 0 means not.",
		keyRotationSchedule: "Rotate automatically at these times: a cron schedule of five fields, in UTC, for example \"0 3 * * SAT\". Instead of rotation_period.",
		keyRotationWindow:   "How long after a time of rotation_schedule the rotation may still begin, an hour at least. A rotation later than this is skipped. 0: a missed rotation runs as soon as possible.",
		keyRotationPolicy:   "Name of a rotation policy of Vault Enterprise, by which its rotation manager tries again after a failure. Has no effect where the engine itself rotates.",
		keyDisableRotation:  "Suspends automatic rotation of the engine's own credential; the schedule stays.",
	} {
		fields[field].Description = description
	}
	return fields
}

// withSchedule adds to the fields of a request those of rotationFields that are for a schedule which the engine itself follows.
func withSchedule(fields map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	for name, field := range rotationFields() {
		if name != keyRotationPolicy && name != keyDisableRotation {
			fields[name] = field
		}
	}
	return fields
}

// forgetWindow drops the stored window of a schedule that the request has ended: nobody has sent it.
func forgetWindow(s *schedule.Schedule, data *framework.FieldData) {
	if s.Cron == "" && !given(data, keyRotationWindow) {
		s.Window = 0
	}
}

// checkSchedule is schedule.Check, with the error that names the field to the user.
func checkSchedule(s schedule.Schedule, now time.Time) error {
	err := s.Check(now)
	var bad *schedule.FieldError
	if errors.As(err, &bad) {
		return badField(bad.Field, "%s", bad.Reason)
	}
	return err
}

// withRotation returns the fields of an answer that shows an entry as it is stored, and how its rotations go.
func withRotation(stored, more map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	fields := maps.Clone(stored)
	maps.Copy(fields, more)
	maps.Copy(fields, rotationTimeFields)
	maps.Copy(fields, map[string]*framework.FieldSchema{
		keyLastRotation:     {Type: framework.TypeString, Required: true, Description: "When Vault last replaced the credential, RFC 3339; null for never."},
		keyNextRotation:     {Type: framework.TypeString, Required: true, Description: "When Vault will next replace it, RFC 3339; null for never."},
		keyRotationFailures: {Type: framework.TypeInt, Required: true, Description: "Attempts that failed since then, one after the other."},
		keyRotationError:    {Type: framework.TypeString, Required: true, Description: "Why the last of them failed; empty when none did."},
		keyRotationRetry:    {Type: framework.TypeString, Required: true, Description: "When the next attempt is made after a failure, RFC 3339; null for none."},
	})
	return fields
}

// timeSuffix is what the names of times in answers end in. The names of v0.1.0 stay beside them.
const timeSuffix = "_time"

// rotationTimeFields are the times of rotationView.addTo.
var rotationTimeFields = func() map[string]*framework.FieldSchema {
	fields := make(map[string]*framework.FieldSchema)
	for _, field := range []string{keyLastRotation, keyNextRotation, keyRotationRetry, keyPendingAttempt} {
		fields[field+timeSuffix] = rotationTimeField(field)
		fields[field+timeSuffix].Required = true
	}
	return fields
}()

// rotationTimeField is the field of an answer that shows the same time as another one.
func rotationTimeField(field string) *framework.FieldSchema {
	return &framework.FieldSchema{Type: framework.TypeString, Description: "The same as " + field + "."}
}

// addTo shows in an answer how the rotations go.
func (v rotationView) addTo(data map[string]any) {
	for field, at := range map[string]time.Time{keyLastRotation: v.Last, keyNextRotation: v.due(), keyRotationRetry: v.NextRetry, keyPendingAttempt: v.PendingRetry} {
		data[field], data[field+timeSuffix] = timeOrNull(at), timeOrNull(at)
	}
	data[keyRotationFailures] = v.Failures
	data[keyRotationError] = v.LastError
	data[keyPendingError] = v.PendingError
}

// retiredIDs returns the ids of the credentials, in a list that is never nil.
func retiredIDs(all []retired) []string {
	ids := []string{}
	for _, old := range all {
		ids = append(ids, old.ID)
	}
	return ids
}
