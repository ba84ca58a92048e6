"""Drives a broker that asks who is there: security.py rights|renewed|throttled ADDRESS CA."""
import logging
import sys
import time

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import (AclBinding, AclBindingFilter, AclOperation, AclPermissionType, AdminClient, NewTopic,
                                   ResourcePatternType, ResourceType, ScramCredentialInfo, ScramMechanism,
                                   UserScramCredentialDeletion, UserScramCredentialUpsertion)

ADDRESS, CA = sys.argv[2:4]


def login(user, password, mechanism="SCRAM-SHA-512", **more):
    settings = {"bootstrap.servers": ADDRESS, "security.protocol": "SASL_SSL", "ssl.ca.location": CA,
                "sasl.mechanism": mechanism, "sasl.username": user, "sasl.password": password}
    return {**settings, **{name.replace("_", "."): value for name, value in more.items()}}


def refused(future, wanted):
    try:
        future.result()
    except KafkaException as error:
        assert wanted in error.args[0].name() + " " + error.args[0].str(), error
        return
    raise SystemExit(f"accepted instead of {wanted}")


def produce(settings, topic):
    """Name of the error of one record, or None."""
    errors = []
    producer = Producer(settings)
    producer.produce(topic, b"oak", on_delivery=lambda error, _: errors.append(error and error.name()))
    assert producer.flush(20) == 0 and len(errors) == 1, errors
    return errors[0]


def consume(settings, topic):
    """Name of the error of the first record, or None."""
    consumer = Consumer({**settings, "group.id": "readers", "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    end = time.time() + 20
    try:
        while time.time() < end:
            message = consumer.poll(1)
            if message is not None:
                return message.error() and message.error().name()
    except KafkaException as error:
        return error.args[0].name()
    finally:
        consumer.close()
    raise SystemExit("neither a record nor an error")


def acl(operation, kind, name, pattern=ResourcePatternType.LITERAL, permission=AclPermissionType.ALLOW):
    return AclBinding(kind, name, pattern, "User:bob", "*", operation, permission)


def rights():
    admin = AdminClient(login("admin", "oak"))
    for future in admin.create_topics([NewTopic("finds", 1, 1), NewTopic("secret", 1, 1)]).values():
        future.result()
    new = lambda iterations: UserScramCredentialUpsertion(
        "bob", ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, iterations), b"elm")
    refused(admin.alter_user_scram_credentials([new(100)])["bob"], "4096 to 16384 are allowed")
    admin.alter_user_scram_credentials([new(8192)])["bob"].result()
    described = admin.describe_user_scram_credentials(["bob"])["bob"].result()
    assert [info.iterations for info in described.scram_credential_infos] == [8192]
    gone = UserScramCredentialDeletion("eve", ScramMechanism.SCRAM_SHA_512)
    refused(admin.alter_user_scram_credentials([gone])["eve"], "RESOURCE_NOT_FOUND")

    bob = login("bob", "elm", "SCRAM-SHA-256")
    read, write = AclOperation.READ, AclOperation.WRITE
    topic, group = ResourceType.TOPIC, ResourceType.GROUP
    create = lambda *acls: [future.result() for future in admin.create_acls(list(acls)).values()]
    assert produce(bob, "finds") == "TOPIC_AUTHORIZATION_FAILED"
    assert AdminClient(bob).list_topics(timeout=10).topics == {}, "bob sees no topic"
    create(acl(write, topic, "fin", ResourcePatternType.PREFIXED))
    assert produce(bob, "finds") is None
    assert produce({**bob, "enable.idempotence": True}, "finds") is None
    assert list(AdminClient(bob).list_topics(timeout=10).topics) == ["finds"]
    assert consume(bob, "finds") == "GROUP_AUTHORIZATION_FAILED"
    create(acl(read, group, "readers"))
    assert consume(bob, "finds") == "TOPIC_AUTHORIZATION_FAILED"
    create(acl(read, topic, "*"))
    assert consume(bob, "finds") is None
    create(acl(read, topic, "finds", permission=AclPermissionType.DENY))
    assert consume(bob, "finds") == "TOPIC_AUTHORIZATION_FAILED"
    of_bob = AdminClient(bob)
    refused(of_bob.create_topics([NewTopic("own", 1, 1)])["own"], "TOPIC_AUTHORIZATION_FAILED")
    any_acl = AclBindingFilter(ResourceType.ANY, None, ResourcePatternType.ANY, "User:bob", None, AclOperation.ANY,
                               AclPermissionType.ANY)
    refused(of_bob.delete_acls([any_acl])[any_acl], "CLUSTER_AUTHORIZATION_FAILED")
    matching = AclBindingFilter(topic, "finds", ResourcePatternType.MATCH, None, None, AclOperation.ANY,
                                AclPermissionType.ANY)
    assert len(admin.describe_acls(matching).result()) == 3
    deleted = admin.delete_acls([any_acl])[any_acl].result()
    assert len(deleted) == 4 and admin.describe_acls(any_acl).result() == []
    assert produce(bob, "finds") == "TOPIC_AUTHORIZATION_FAILED"

    said = []
    wrong = Producer({**login("bob", "oak", "SCRAM-SHA-256"), "error_cb": lambda error: said.append(error.str())})
    wrong.poll(3)
    sentence = "login refused for user bob with SCRAM-SHA-256: check name and password"
    assert any(sentence in one for one in said), said


def renewed():
    """A login is good for 1.5 s: the client renews it on the same connections (KIP-368)."""
    said, renewals = [], []
    producer = Producer({**login("admin", "oak"), "debug": "security", "error_cb": lambda error: said.append(error.str())},
                        logger=Log(renewals))
    for _ in range(20):
        producer.produce("renewed", b"oak", on_delivery=lambda error, _: error and said.append(error.str()))
        producer.poll(0)
        time.sleep(0.2)
    assert producer.flush(20) == 0 and not said, said
    assert len(renewals) > 3, renewals


class Log(logging.Handler):
    """Keeps lines about the life of a login."""

    def __init__(self, kept):
        super().__init__()
        self.kept = kept

    def log(self, _level, line, *values):
        if "session lifetime" in line % values:
            self.kept.append(line % values)


def throttled():
    """User bob may send and fetch 1,000,000 bytes a second: ten seconds' worth at once, the rest waits."""
    throttles = {}
    note = lambda name: lambda event: throttles.setdefault(name, []).append(event.throttle_time)
    bob = login("bob", "elm", "SCRAM-SHA-512")
    producer = Producer({**bob, "throttle_cb": note("producer"), "linger.ms": 50, "batch.size": 500000})
    start = time.time()
    for number in range(1300):
        producer.produce("bulk", bytes(10000), on_delivery=lambda error, _: error and sys.exit(error.str()))
        producer.poll(0)
    assert producer.flush(60) == 0
    # throttle_time_ms of the last answer mutes the channel: the next request shows it
    producer.produce("bulk", b"last")
    assert producer.flush(60) == 0
    sent_s = time.time() - start
    assert throttles.get("producer") and sent_s > 2, (throttles, sent_s)

    consumer = Consumer({**bob, "throttle_cb": note("consumer"), "group.id": "readers", "auto.offset.reset": "earliest"})
    consumer.subscribe(["bulk"])
    start, count = time.time(), 0
    while count < 1301:
        message = consumer.poll(60)
        assert message is not None and not message.error(), message and message.error()
        count += 1
    fetched_s = time.time() - start
    consumer.close()
    assert throttles.get("consumer") and fetched_s > 2, (throttles, fetched_s)
    print(f"sent in {sent_s:.1f} s, fetched in {fetched_s:.1f} s")


{"rights": rights, "renewed": renewed, "throttled": throttled}[sys.argv[1]]()
print("all good")
