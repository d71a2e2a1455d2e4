package org.example;

final class Greeting {
    static String to(String name) {
        return "hello, " + name;
    }
}
